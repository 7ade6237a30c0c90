-- Forgets when a proposal expires, unless it was put off meanwhile.
--
-- KEYS: 3 expiries.
local member, moment = take(), tonumber(take())
local score = redis.call('ZSCORE', KEYS[3], member)
if score and tonumber(score) <= moment then
  redis.call('ZREM', KEYS[3], member)
end
return 1
