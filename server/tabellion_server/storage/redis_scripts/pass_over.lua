-- After a node's crash: the tokens that it wrote ahead may have been given out by a store that was
-- restored since, or not at all. Which can't be told, so they are passed over.
--
-- KEYS: 3 lost, 4 losses.
local known, ahead, moment = tonumber(take()), tonumber(take()), take()
move_on()
local missing = ahead - held('token')
if lost(known, 0) == 0 and missing > 0 then
  redis.call('RPUSH', KEYS[4],
    integer(held('last')) .. ' ' .. integer(missing) .. ' ' .. moment .. ' 0')
  redis.call('HINCRBY', state, 'token', missing)
  redis.call('HINCRBY', state, 'last', missing)
end
return 1
