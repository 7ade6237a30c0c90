-- Gives what a GUN is at one moment, without what is only ever added to: that ends at its token.
--
-- KEYS: 4 files, 5 collected, 6 keys, 7 pending.
local told = {redis.call('HGETALL', kept), redis.call('HGETALL', head)}
for place = 4, 7 do
  told[place - 1] = redis.call('HGETALL', KEYS[place])
end
return told
