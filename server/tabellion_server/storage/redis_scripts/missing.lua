-- Counts what one who knows of a higher token has to take for lost; lists past losses.
--
-- KEYS: 3 lost, 4 losses.
move_on()
local missing = lost(tonumber(take()))
local of_guns = 0
for _, count in ipairs(redis.call('HVALS', KEYS[3])) do
  of_guns = of_guns + tonumber(count)
end
return {integer(missing), integer(of_guns), redis.call('LRANGE', KEYS[4], 0, -1)}
