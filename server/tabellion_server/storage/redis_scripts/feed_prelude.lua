-- What every script on the feed's slot begins with.
--
-- KEYS: 1 state (schema, token, last, run, replid, moved_at, accepts, behind, settled, settled_from,
-- forgot), 2 gaps.
local state, gaps = KEYS[1], KEYS[2]

-- The same as in redis_schema.py: who is of another release does nothing here any more.
local SCHEMA = '1'
if (redis.call('HGET', state, 'schema') or '1') ~= SCHEMA then
  return redis.error_reply('SCHEMA is another')
end

-- Tokens and ids of changes that a master may have forgotten when it was started anew, or when
-- another took its place: so many are never given out.
local PASSED_OVER = 1048576

local function held(name)
  return tonumber(redis.call('HGET', state, name) or '0')
end

local function microseconds()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end

-- Notes the first moment at which a master that was started anew, or took another's place, is asked;
-- also if it had that place before. One that has no number was emptied under its nodes.
local function move_on()
  local told = redis.call('INFO', 'server', 'replication')
  local mine, reign = string.match(told, 'run_id:(%w+)'), string.match(told, 'master_replid:(%w+)')
  local last, replid = unpack(redis.call('HMGET', state, 'run', 'replid'))
  if mine == last and (not replid or replid == reign) then
    if not replid then
      redis.call('HSET', state, 'replid', reign)
    end
    return
  end
  redis.call('HSET', state, 'run', mine, 'replid', reign)
  if last or redis.call('HEXISTS', state, 'schema') == 0 then
    redis.call('HSET', state, 'moved_at', integer(microseconds()))
  end
  if last then
    redis.call('HSET', state, 'settled_from', integer(held('settled')))
    redis.call('HINCRBY', state, 'settled', PASSED_OVER)
    redis.call('RPUSH', gaps,
      integer(held('token')) .. ' ' .. integer(PASSED_OVER) .. ' ' .. integer(held('last')))
    redis.call('HINCRBY', state, 'token', PASSED_OVER)
    redis.call('HINCRBY', state, 'last', PASSED_OVER)
  end
end

-- Tells how long nodes that know of something lost still have to say so, in microseconds. A clock
-- that was set back begins anew.
local function unsettled(wait)
  local moved_at, now = held('moved_at'), microseconds()
  if now < moved_at then
    redis.call('HSET', state, 'moved_at', integer(now))
    return wait
  end
  return math.max(0, moved_at + wait - now)
end

-- Counts how many tokens lack, if one that was given out isn't known here: it's above all, or in a
-- gap. Gives the gap's place and the id of the last change before it too. Gaps grow, so the newest
-- that's below ends the search.
local function lacking(known)
  if known > held('token') then
    return known - held('token'), nil, held('last')
  end
  for place = redis.call('LLEN', gaps) - 1, 0, -1 do
    local gap = redis.call('LINDEX', gaps, place)
    local from, size, last, accepted = string.match(gap, '^(%d+) (%d+) (%d+)(.*)$')
    from, size = tonumber(from), tonumber(size)
    if known > from + size then
      return 0
    end
    if known > from then
      return accepted == '' and known - from or 0, place, tonumber(last)
    end
  end
  return 0
end

-- The same of what any node has known: who finds that something lacks says it to all. What isn't
-- judged has -1. A token may be known here whose write isn't: so the number of the newest settlement
-- that a node had counts, too.
local function lost(known, settled)
  if known < 0 then
    return 0
  end
  local from = redis.call('HGET', state, 'settled_from')
  if from and settled > tonumber(from) and settled <= tonumber(from) + PASSED_OVER then
    redis.call('HSET', state, 'forgot', 1)
  end
  known = math.max(known, held('behind'))
  local missing, place, after = lacking(known)
  if missing > 0 then
    redis.call('HSET', state, 'behind', integer(known))
  end
  return math.max(missing, held('forgot')), place, after
end
