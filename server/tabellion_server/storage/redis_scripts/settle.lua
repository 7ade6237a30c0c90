-- Moves what GUNs have to tell to the changefeed, each once, and strikes their intents.
--
-- KEYS: 3 lost, 4 intents, 5 latest, 6 moved, 7 names, 8 keyed, 9 known, 10 changes of all, then
-- those of each GUN.
move_on()
for number = 1, tonumber(take()) do
  local token, gun, has_head, has_keys = take(), take(), take(), take()
  local moved = tonumber(string.match(redis.call('HGET', KEYS[6], gun) or '0', '^%d+'))
  local before = moved
  for _ = 1, tonumber(take()) do
    local seq, packed = tonumber(take()), take()
    if seq > moved then
      local id = integer(redis.call('HINCRBY', state, 'last', 1)) .. '-0'
      redis.call('XADD', KEYS[10], id, 'c', packed)
      redis.call('XADD', KEYS[10 + number], id, 'c', packed)
      moved = seq
    end
  end
  if moved > before then
    redis.call('HSET', KEYS[6], gun, integer(moved) .. ' ' .. integer(held('accepts')))
  end
  redis.call('ZREM', KEYS[4], token .. ':' .. gun)
  -- Nobody has meant to write to the GUN since: what isn't there isn't listed.
  if redis.call('HGET', KEYS[5], gun) == token then
    if has_head == '0' then
      redis.call('ZREM', KEYS[7], gun)
    end
    if has_keys == '0' then
      redis.call('ZREM', KEYS[8], gun)
    end
  end
end
return redis.call('HINCRBY', state, 'settled', 1)
