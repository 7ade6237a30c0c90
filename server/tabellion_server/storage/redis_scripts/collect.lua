-- Lets go of the bytes of old versions; their hashes stay, so that no others get their numbers.
--
-- KEYS: 4 files, 5 hashes, 6 collected, then one for the bytes of each.
local files, hashes, collected = KEYS[4], KEYS[5], KEYS[6]
local wanted, newest = {}, {}
for number = 1, tonumber(take()) do
  local file = {role = take(), version = take(), blob = KEYS[6 + number]}
  file.name = file.version .. ':' .. file.role
  wanted[number] = file
  newest[file.role] = ''
end
for _, name in ipairs(redis.call('HKEYS', files)) do
  local version, role = string.match(name, '^(%d+):(.*)$')
  if newest[role] and is_above(version, newest[role]) then
    newest[role] = version
  end
end
for _, file in ipairs(wanted) do
  if file.role == 'root' or not is_above(newest[file.role], file.version) then
    return {'kept', file.role, file.version}
  end
end
local length = 0
for _, file in ipairs(wanted) do
  local found = redis.call('HGET', files, file.name)
  if found then
    local sha256, _, bytes = string.match(found, '^(%x+) (%d+) (%d+)$')
    length = length + tonumber(bytes)
    redis.call('HSET', collected, file.name, sha256)
    redis.call('HDEL', files, file.name)
    redis.call('HDEL', hashes, sha256 .. ':' .. file.role)
    redis.call('UNLINK', file.blob)
  end
end
redis.call('HINCRBY', kept, 'collects', 1)
return {'done', integer(length)}
