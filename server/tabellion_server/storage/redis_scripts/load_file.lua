-- Writes a file of another store as it is.
--
-- KEYS: 4 files, 5 hashes, 6 stored, 7 the one for its bytes.
local file = {blob = KEYS[7]}
file.role, file.version, file.sha256, file.length = take(), take(), take(), take()
file.stored_at, file.data = take(), take()
add_file(file, KEYS[4], KEYS[5], KEYS[6])
return 1
