-- Tells what a GUN's own slot knows of lost moments, for whoever is about to sign.
--
-- KEYS: 4 stored.
was_moved_on()
local told = redis.call('HMGET', kept, 'skip', 'lost_at')
return {told[1] or '0', told[2] or '', redis.call('HGETALL', KEYS[4])}
