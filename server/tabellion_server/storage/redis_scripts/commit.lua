-- Publishes: compare-and-set, files, current ones, history, outbox, all or nothing.
-- All is checked before the first write, as a script isn't undone.
--
-- KEYS: 4 files, 5 hashes, 6 stored, 7 events, 8 targets, 9 outbox, 10 pending, 11 audit,
-- 12 audits, 13 collected, then one for the bytes of each file.
local files, hashes, stored, events, targets = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local outbox, pending, audit, audits = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local collected = KEYS[13]

local token, moved, is_accepted, moment, gun = take(), take(), take(), take(), take()
local expected, dialect, was, converts = take(), take(), take(), take()
local closed, closing = take(), take()

local function answer(word)
  return {word, redis.call('HGETALL', head), redis.call('HGETALL', outbox)}
end

if was_done(token) then
  return answer('done')
end
local refused = refusal(token, moved, is_accepted, moment)
if refused then
  return refused
end
if was_moved_on() or (redis.call('HGET', head, 'revision') or '') ~= expected then
  return answer('stale')
end
if is_late(token) then
  return {'fenced'}
end
local speaks = redis.call('HGET', head, 'dialect')
if speaks and speaks ~= was then
  return {'dialect', {}, redis.call('HGETALL', outbox), speaks}
end

-- What was withdrawn after it was judged isn't published.
local is_pending = redis.call('HEXISTS', pending, closed) == 1
if closed ~= '' and not is_pending then
  local newest = redis.call(
    'ZREVRANGEBYLEX', audits, '(' .. closed .. ';', '[' .. closed .. ':', 'LIMIT', 0, 1)[1]
  local entry = newest and redis.call('HGET', audit, string.match(newest, '%x+$'))
  if entry and cjson.decode(entry)[3] == 'withdrawn' then
    return answer('withdrawn')
  end
end

local added, new = {}, {}
for number = 1, tonumber(take()) do
  local file = {blob = KEYS[13 + number]}
  file.role, file.version, file.sha256, file.length = take(), take(), take(), take()
  file.stored_at, file.change, file.data = take(), take(), take()
  file.name = file.version .. ':' .. file.role
  local stored_one = new[file.name] or redis.call('HGET', files, file.name)
  local known = stored_one or redis.call('HGET', collected, file.name)
  if known and string.match(known, '^%x+') ~= file.sha256 then
    return {'other', {}, redis.call('HGETALL', outbox), file.role, file.version}
  end
  file.is_new = not stored_one
  new[file.name] = file.sha256
  added[number] = file
end

-- From here on it's done.
local revision = integer(redis.call('HINCRBY', kept, 'revision', 1))
redis.call('HSET', head, 'dialect', dialect, 'revision', revision, 'changed_at', moment, 'stamp', token)
forget_told(outbox, moved)
local is_told = false
for _, file in ipairs(added) do
  if file.is_new then
    add_file(file, files, hashes, stored)
    redis.call('HDEL', collected, file.name)
    if file.change ~= '' then
      tell(outbox, file.change)
      is_told = true
    end
  end
  local current = redis.call('HGET', head, ':' .. file.role)
  if not current or is_above(file.version, string.match(current, '^%d+')) then
    redis.call('HSET', head, ':' .. file.role,
      file.version .. ' ' .. file.sha256 .. ' ' .. file.length)
  end
end
for _ = 1, tonumber(take()) do
  redis.call('HDEL', head, ':' .. take())
end
for _ = 1, tonumber(take()) do
  local target = take()
  add_row(events, targets, target, token, take())
end
for _ = 1, tonumber(take()) do
  tell(outbox, take())
  is_told = true
end
if is_pending then
  redis.call('HDEL', pending, closed)
  add_row(audit, audits, closed, token, closing)
end
if converts == '1' then
  drop_pending(pending, audit, audits, token, gun, moment)
end
if is_told then
  redis.call('HDEL', kept, 'skip')
end
note_done(token)
return answer('done')
