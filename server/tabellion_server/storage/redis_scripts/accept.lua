-- Goes on from a restored state: what is lost is told to all who sign, and never given out again.
--
-- KEYS: 3 lost, 4 losses, 5 moved.
local known, skip, moment, name = tonumber(take()), tonumber(take()), take(), take()
if redis.call('HGET', state, 'accepted_by') == name then
  return redis.call('HGET', state, 'accepted')
end
move_on()
local missing, place, from = lost(known, 0)
if place and missing > 0 then
  redis.call('LSET', gaps, place, redis.call('LINDEX', gaps, place) .. ' accepted')
end
local of_guns = 0
for _, count in ipairs(redis.call('HVALS', KEYS[3])) do
  of_guns = of_guns + tonumber(count)
end
if skip > missing then
  missing = skip
end
if missing > 0 then
  if not place then
    from = held('last')
    redis.call('HINCRBY', state, 'token', missing)
    redis.call('HINCRBY', state, 'last', missing)
  end
  redis.call('RPUSH', KEYS[4], integer(from) .. ' ' .. integer(missing) .. ' ' .. moment .. ' 1')
end
-- A GUN that went back alone: of it what was moved until now is taken for lost, no more.
for _, gun in ipairs(redis.call('HKEYS', KEYS[3])) do
  local seq = string.match(redis.call('HGET', KEYS[5], gun) or '0', '^%d+')
  redis.call('HSET', KEYS[5], gun, seq .. ' -1')
end
redis.call('DEL', KEYS[3])
redis.call('HDEL', state, 'behind', 'forgot', 'settled_from')
if missing > 0 then
  redis.call('HINCRBY', state, 'accepts', 1)
end
local accepted = integer(missing + of_guns)
redis.call('HSET', state, 'accepted_by', name, 'accepted', accepted)
return accepted
