-- Notes that GUNs are about to be written to, before they are: whatever happens then, it's found.
--
-- KEYS: 3 lost, 4 intents, 5 latest, 6 moved, 7 names, 8 keyed, 9 known.
move_on()
local rest = unsettled(tonumber(take()))
local answers = {}
for number = 1, tonumber(take()) do
  local known, settled, gun, makes = tonumber(take()), tonumber(take()), take(), take()
  local missing = lost(known, settled)
  if held('loading') > 0 then
    answers[number] = {'loading'}
  elseif missing > 0 then
    answers[number] = {'lost', integer(missing)}
  elseif rest > 0 and known >= 0 then
    answers[number] = {'unsettled', integer(rest)}
  else
    local token = integer(redis.call('HINCRBY', state, 'token', 1))
    redis.call('ZADD', KEYS[4], redis.call('TIME')[1], token .. ':' .. gun)
    redis.call('HSET', KEYS[5], gun, token)
    redis.call('ZADD', KEYS[9], 0, gun)
    if makes == 'gun' then
      redis.call('ZADD', KEYS[7], 0, gun)
    elseif makes == 'key' then
      redis.call('ZADD', KEYS[8], 'NX', token, gun)
    end
    local moved = redis.call('HGET', KEYS[6], gun) or '0 0'
    local seq, accepts = string.match(moved, '^(%d+) (%-?%d+)$')
    answers[number] = {'ok', token, seq, held('accepts') > tonumber(accepts) and '1' or '0'}
  end
end
return answers
