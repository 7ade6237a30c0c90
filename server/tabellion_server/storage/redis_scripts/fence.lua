-- Gives up on a write that was meant and never concluded: it can't come any more.
--
-- KEYS: 4 keys, 5 outbox.
local token = take()
if tonumber(token) > held('fence') then
  redis.call('HSET', kept, 'fence', token)
end
return {redis.call('EXISTS', head), redis.call('EXISTS', KEYS[4]), redis.call('HGETALL', KEYS[5])}
