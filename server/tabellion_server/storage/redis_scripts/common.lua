-- What every script begins with: taking its arguments one by one, and whole numbers as text.
local position = 0
local function take()
  position = position + 1
  return ARGV[position]
end

local function integer(number)
  return string.format('%.0f', number)
end
