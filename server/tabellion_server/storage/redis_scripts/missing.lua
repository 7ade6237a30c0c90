-- Counts what one who knows of a higher token has to take for lost; lists past losses.
--
-- KEYS: 3 lost, 4 losses, 5 changes of a GUN.
move_on()
local known, settled = tonumber(take()), tonumber(take())
local missing = lost(known, settled)
local of_guns = 0
for _, count in ipairs(redis.call('HVALS', KEYS[3])) do
  of_guns = of_guns + tonumber(count)
end
local newest = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)[1]
local told = {integer(missing), integer(of_guns), newest and newest[1] or ''}
told[4] = redis.call('LRANGE', KEYS[4], 0, -1)
return told
