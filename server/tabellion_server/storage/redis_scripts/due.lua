-- Lists intents that are older than they should be.
--
-- KEYS: 3 intents.
local age, limit = tonumber(take()), tonumber(take())
return redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', tonumber(redis.call('TIME')[1]) - age, 'LIMIT', 0, limit)
