-- Notes that one GUN went back, which its own slot can't tell to all.
--
-- KEYS: 3 lost, 4 intents.
local token, gun, count = take(), take(), take()
redis.call('HSET', KEYS[3], gun, count)
redis.call('ZREM', KEYS[4], token .. ':' .. gun)
return 1
