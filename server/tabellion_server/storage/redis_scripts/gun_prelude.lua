-- What every script on a GUN's slot begins with.
--
-- KEYS: 1 kept (survives a delete), 2 head, 3 log (newest writes' names).
-- kept: revision, token (of the newest write), run and replid (the master's that did it), skip,
-- lost_at, fence, and counters: seq, keys.
local kept, head, log = KEYS[1], KEYS[2], KEYS[3]

-- Versions and revisions that a master may have forgotten when it was started anew, or when
-- another took its place: so many are passed over.
local PASSED_OVER = 1024
local LOGGED = 64

local function held(name)
  return tonumber(redis.call('HGET', kept, name) or '0')
end

-- Decimal numbers up to 64 bits, which Lua's own numbers aren't exact for.
local function is_above(one, other)
  return #one > #other or (#one == #other and one > other)
end

-- A write that is sent again, as its answer was lost, must not be done again. It's a write
-- nevertheless: WAIT counts from a connection's newest.
local function was_done(name)
  if redis.call('LPOS', log, name) then
    redis.call('HINCRBY', kept, 'repeated', 1)
    return true
  end
  return false
end

-- Which process this is, and which reign of it: one that was a replica meanwhile may have forgotten
-- what it did before.
local me, reign
local function run()
  if not me then
    local told = redis.call('INFO', 'server', 'replication')
    me, reign = string.match(told, 'run_id:(%w+)'), string.match(told, 'master_replid:(%w+)')
  end
  return me, reign
end

local function note_run()
  redis.call('HSET', kept, 'run', run(), 'replid', reign)
end

local function note_done(name)
  note_run()
  redis.call('HSET', kept, 'token', name)
  redis.call('LPUSH', log, name)
  redis.call('LTRIM', log, 0, LOGGED - 1)
end

-- What was judged on the GUN's old revision is stale from now on.
local function move_on(count)
  note_run()
  redis.call('HINCRBY', kept, 'skip', count)
  local revision = integer(redis.call('HINCRBY', kept, 'revision', count))
  if redis.call('EXISTS', head) == 1 then
    redis.call('HSET', head, 'revision', revision, 'stamp', me .. reign .. revision)
  end
end

-- Another master, or the same one started anew, may lack the newest moments.
local function was_moved_on()
  local last, replid = unpack(redis.call('HMGET', kept, 'run', 'replid'))
  if not last or last == run() and (not replid or replid == reign) then
    return false
  end
  move_on(PASSED_OVER)
  return true
end

-- Refuses who was given up on, and a GUN that went back behind what was moved to the changefeed,
-- until somebody has accepted that.
local function refusal(token, moved, is_accepted, moment)
  if tonumber(token) <= held('fence') then
    return {'fenced'}
  end
  local missing = tonumber(moved) - held('seq')
  if missing > 0 and is_accepted == '0' then
    return {'lost', integer(missing)}
  end
  if missing > 0 then
    move_on(missing + PASSED_OVER)
    redis.call('HSET', kept, 'seq', moved, 'lost_at', moment)
  end
  return nil
end

-- Rows of all GUNs have ids of their own, which grow: the token of the write, and a number in it.
local rows = 0
local function add_row(hash, index, about, token, packed)
  rows = rows + 1
  local id = string.format('%011x%05x', tonumber(token), rows)
  redis.call('HSET', hash, id, packed)
  redis.call('ZADD', index, 0, ':' .. id, 0, about .. ':' .. id)
end

-- A version's bytes, and where they are found: by version, by hash, and when the role's newest came.
local function add_file(file, files, hashes, stored)
  redis.call('HSET', files, file.version .. ':' .. file.role,
    file.sha256 .. ' ' .. file.stored_at .. ' ' .. file.length)
  redis.call('HSET', hashes, file.sha256 .. ':' .. file.role, file.version)
  redis.call('SET', file.blob, file.sha256 .. ' ' .. file.stored_at .. '\n' .. file.data)
  if is_above(file.stored_at, redis.call('HGET', stored, file.role) or '') then
    redis.call('HSET', stored, file.role, file.stored_at)
  end
end

-- A proposal begins with its revision, its expiry and its versions.
local function proposal(packed)
  return string.match(packed, '^(%d+) (%d+) ([^\n]*)\n')
end

-- All proposals of a GUN that is dropped or converted itself.
local function drop_pending(pending, audit, audits, token, gun, moment)
  for _, id in ipairs(redis.call('HKEYS', pending)) do
    local _, _, versions = proposal(redis.call('HGET', pending, id))
    local entry = cjson.encode({gun, id, 'dropped', versions, '[]', '', moment})
    add_row(audit, audits, id, token, entry)
  end
  redis.call('DEL', pending)
end

-- Rows come in the order of their ids: who was overtaken asks for a later token.
local function is_late(token)
  return tonumber(token) < held('token')
end

-- What the changefeed has to be told, until it is known to have been.
local function tell(outbox, packed)
  redis.call('HSET', outbox, integer(redis.call('HINCRBY', kept, 'seq', 1)), packed)
end

local function forget_told(outbox, moved)
  for _, seq in ipairs(redis.call('HKEYS', outbox)) do
    if tonumber(seq) <= tonumber(moved) then
      redis.call('HDEL', outbox, seq)
    end
  end
end
