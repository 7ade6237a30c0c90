-- Adds an online key, if the role has just the keys that were seen.
--
-- KEYS: 4 keys, 5 outbox.
local keys, outbox = KEYS[4], KEYS[5]
local token, moved, is_accepted, moment = take(), take(), take(), take()
local role, field, packed, sees = take(), take(), take(), take()

if was_done(token) then
  return {'done', {}, redis.call('HGETALL', outbox)}
end
local refused = refusal(token, moved, is_accepted, moment)
if refused then
  return refused
end
if is_late(token) then
  return {'fenced'}
end
was_moved_on()
if sees == '1' then
  local seen, count = {}, 0
  for _ = 1, tonumber(take()) do
    local name = take()
    if not seen[name] then
      seen[name], count = true, count + 1
    end
  end
  for _, name in ipairs(redis.call('HKEYS', keys)) do
    if cjson.decode(name)[1] == role then
      if not seen[name] then
        return {'other', {}, redis.call('HGETALL', outbox)}
      end
      count = count - 1
    end
  end
  if count ~= 0 then
    return {'other', {}, redis.call('HGETALL', outbox)}
  end
end
if redis.call('HEXISTS', keys, field) == 1 then
  return {'twice', {}, redis.call('HGETALL', outbox)}
end
local id = redis.call('HINCRBY', kept, 'keys', 1)
redis.call('HSET', keys, field, integer(id) .. ' ' .. packed)
note_done(token)
return {'done', {}, redis.call('HGETALL', outbox)}
