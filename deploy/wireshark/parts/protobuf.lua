-- Messages of protobuf, by the tables made from the schema.  A message is read whole before anything of it is shown:
-- what does not read is no message.

local byte, add = string.byte, P.add
local MAX_ITEMS = 64
local MAX_NESTING = 100

local WIRE_TYPE = {
  uint32 = 0, uint64 = 0, int32 = 0, int64 = 0, sint32 = 0, sint64 = 0, bool = 0, enum = 0, fixed64 = 1, fixed32 = 5,
  string = 2, bytes = 2, message = 2, map = 2,
}
local SHIFT = {128, 16384, 2097152, 0, 8, 1024, 131072, 16777216}
local PAIR = "entry of a map"
local BY_NUMBER = {[PAIR] = {{1, "key", "string"}, {2, "value", "string"}}}
for name, fields in pairs(MESSAGES) do
  BY_NUMBER[name] = {}
  for _, field in ipairs(fields) do
    BY_NUMBER[name][field[1]] = field
  end
end

-- Two halves and the position behind; positions count from 1.
local function varint(s, at, last)
  local b = at <= last and byte(s, at) or nil
  if not b then
    P.refuse("cut short")
  end
  if b < 128 then
    return b, 0, at + 1
  end
  local low, high = b - 128, 0
  for index = 1, 9 do
    at = at + 1
    b = at <= last and byte(s, at) or nil
    if not b then
      P.refuse("cut short")
    end
    local bits = b % 128
    if index < 4 then
      low = low + bits * SHIFT[index]
    elseif index == 4 then
      low = low + bits % 16 * 268435456
      high = math.floor(bits / 16)
    elseif index < 9 then
      high = high + bits * SHIFT[index]
    else
      high = high + b % 2 * 2147483648 -- bits beyond the 64th do not count
    end
    if b < 128 then
      return low, high, at + 1
    end
  end
  P.refuse("a number of more than 10 bytes")
end

local function is_utf8(text)
  local at, length = 1, #text
  while true do
    at = text:find("[\128-\255]", at)
    if not at then
      return true
    end
    local a, b = byte(text, at, at + 1)
    b = b or 0
    local more
    if a >= 0xC2 and a < 0xE0 then
      more = 1
    elseif a >= 0xE0 and a < 0xF0 then
      more = 2
      if (a == 0xE0 and b < 0xA0) or (a == 0xED and b > 0x9F) then
        return false
      end
    elseif a >= 0xF0 and a < 0xF5 then
      more = 3
      if (a == 0xF0 and b < 0x90) or (a == 0xF4 and b > 0x8F) then
        return false
      end
    else
      return false
    end
    if at + more > length or text:find("[^\128-\191]", at + 1) and text:find("[^\128-\191]", at + 1) <= at + more then
      return false
    end
    at = at + more + 1
  end
end

local function negated(low, high)
  low, high = 4294967295 - low + 1, 4294967295 - high
  if low == 4294967296 then
    low, high = 0, (high + 1) % 4294967296
  end
  return low, high
end

-- The value of one number of a field.
local function scalar(kind, low, high)
  if kind == "bool" then
    return (low ~= 0 or high ~= 0) and 1 or 0, 0
  elseif kind == "sint32" or kind == "sint64" then
    local odd = low % 2 == 1
    high = kind == "sint32" and 0 or high
    low = math.floor(low / 2) + high % 2 * 2147483648
    high = math.floor(high / 2)
    if kind == "sint32" then
      return odd and 4294967295 - low or low, 0
    end
    if odd then
      return 4294967295 - low, 4294967295 - high
    end
    return low, high
  elseif kind == "uint64" or kind == "int64" or kind == "fixed64" then
    return low, high
  end
  return low, 0
end

local read

local function put(message, field, entry)
  local name = field[2]
  if field.oneof then
    local before = message.chosen[field.oneof]
    if before and before ~= name then
      message[before] = nil
    end
    message.chosen[field.oneof] = name
  end
  if field.list or field[3] == "map" then
    local list = message[name]
    if list then
      list[#list + 1] = entry
    else
      message[name] = {entry}
    end
  else
    message[name] = entry
  end
end

local function skip_group(s, at, last, number, depth)
  while true do
    local tag, high, body = varint(s, at, last)
    local wire = tag % 8
    if high ~= 0 or tag < 8 or depth > MAX_NESTING then
      P.refuse("a field that cannot be")
    end
    if wire == 4 then
      if math.floor(tag / 8) ~= number then
        P.refuse("a group that does not end")
      end
      return body
    elseif wire == 0 then
      local _
      _, _, at = varint(s, body, last)
    elseif wire == 1 then
      at = body + 8
    elseif wire == 5 then
      at = body + 4
    elseif wire == 2 then
      local length, _, start = varint(s, body, last)
      at = start + length
    elseif wire == 3 then
      at = skip_group(s, body, last, math.floor(tag / 8), depth + 1)
    else
      P.refuse("wire type %d", wire)
    end
    if at > last + 1 then
      P.refuse("cut short")
    end
  end
end

local function delimited(message, field, s, tag_at, start, stop, depth)
  local kind = field[3]
  if kind == "message" then
    local entry = not field.list and message[field[2]] or {o = tag_at - 1}
    entry.n = stop - entry.o
    entry.start, entry.stop = start, stop
    entry.m = read(field.type, s, start, stop, depth + 1, entry.m)
    put(message, field, entry)
  elseif kind == "map" then
    local pair = read(PAIR, s, start, stop, depth + 1)
    local key, value = pair.key and pair.key.v or "", pair.value and pair.value.v or ""
    if pair.is_strange then
      return -- an entry with anything else in it is none
    end
    for index, before in ipairs(message[field[2]] or {}) do
      if before.key == key then
        table.remove(message[field[2]], index) -- the last one counts
      end
    end
    put(message, field, {v = key .. "=" .. value, key = key, o = tag_at - 1, n = stop - tag_at + 1})
  elseif kind == "string" then
    local text = s:sub(start, stop)
    if text:find("[\128-\255]") and not is_utf8(text) then
      P.refuse("a text that is not UTF-8")
    end
    put(message, field, {v = text, o = start - 1, n = stop - start + 1})
  else
    put(message, field, {o = start - 1, n = stop - start + 1})
  end
end

local function packed(message, field, s, start, stop)
  local kind, at = field[3], start
  local width = kind == "fixed64" and 8 or kind == "fixed32" and 4 or nil
  if width then
    if (stop - start + 1) % width ~= 0 then
      P.refuse("cut short")
    end
    while at <= stop do
      put(message, field, {v = P.le32(s, at - 1), h = width == 8 and P.le32(s, at + 3) or 0, o = at - 1, n = width})
      at = at + width
    end
    return
  end
  while at <= stop do
    local low, high, behind = varint(s, at, stop)
    low, high = scalar(kind, low, high)
    put(message, field, {v = low, h = high, o = at - 1, n = behind - at})
    at = behind
  end
end

-- Fields by name: {v value, h its upper half, o offset, n bytes, m message inside}; lists of them.
function read(name, s, first, last, depth, into)
  local by_number, message = BY_NUMBER[name], into or {chosen = {}}
  if depth > MAX_NESTING then
    P.refuse("nested too deep")
  end
  local at = first
  while at <= last do
    local tag_at = at
    local tag, tag_high, body = varint(s, at, last)
    local wire, number = tag % 8, math.floor(tag / 8)
    if number == 0 or tag_high ~= 0 then
      P.refuse("a field that cannot be")
    end
    local field = by_number[number]
    local fits = field and WIRE_TYPE[field[3]] == wire
    message.is_strange = message.is_strange or not fits
    if wire == 0 then
      local low, high, behind = varint(s, body, last)
      if fits then
        low, high = scalar(field[3], low, high)
        put(message, field, {v = low, h = high, o = tag_at - 1, n = behind - tag_at})
      end
      at = behind
    elseif wire == 1 or wire == 5 then
      local width = wire == 1 and 8 or 4
      if body + width - 1 > last then
        P.refuse("cut short")
      end
      if fits then
        local high = width == 8 and P.le32(s, body + 3) or 0
        put(message, field, {v = P.le32(s, body - 1), h = high, o = tag_at - 1, n = body - tag_at + width})
      end
      at = body + width
    elseif wire == 2 then
      local length, length_high, start = varint(s, body, last)
      local stop = start + length - 1
      if length_high ~= 0 or stop > last then
        P.refuse("cut short")
      end
      if fits then
        delimited(message, field, s, tag_at, start, stop, depth)
      elseif field and field.list then
        packed(message, field, s, start, stop)
      end
      at = stop + 1
    elseif wire == 3 then
      at = skip_group(s, body, last, number, depth + 1)
    else
      P.refuse("wire type %d", wire)
    end
  end
  return message
end

-- Read `count` bytes at offset `at` as a message; nil and what is wrong.
function P.message(name, buf, at, count)
  return P.guarded(read, name, buf.s, at + 1, at + count, 0)
end

local PLANS = {}
local function plan_of(name, prefix)
  local key = name .. " " .. prefix
  local plan = PLANS[key]
  if plan then
    return plan
  end
  plan = {}
  for _, field in ipairs(MESSAGES[name]) do
    if field.oneof ~= "body" then
      plan[#plan + 1] = {field[2], field[3], prefix .. "." .. field[2], field}
    end
  end
  PLANS[key] = plan
  return plan
end

local function show_one(tree, kind, full, buf, entry)
  if kind == "bytes" then
    return add(tree, full, buf, entry.o, entry.n)
  end
  return add(tree, full, buf, entry.o, entry.n, entry.v, entry.h)
end

local EMPTY = {string = "", bytes = nil}

-- Show the fields of a message.  `skip`: fields (by name) that are shown elsewhere.  `behind`: offset where fields that
-- the sender left out (0, or empty) are said to be.
function P.show(tree, name, prefix, buf, message, behind, depth, skip)
  depth = depth or 0
  for _, row in ipairs(plan_of(name, prefix)) do
    local field_name, kind, full, field = row[1], row[2], row[3], row[4]
    local entry = message[field_name]
    if skip and skip[field_name] then
      entry = nil
    elseif kind == "message" then
      if entry and depth < MAX_DEPTH then
        for index, item in ipairs(field.list and entry or {entry}) do
          if index > MAX_ITEMS then
            break
          end
          local inner = tree:add(buf.tvb:range(item.o, item.n), field_name)
          P.show(inner, field.type, full, buf, item.m, item.stop, depth + 1)
        end
      end
    elseif field.list or kind == "map" then
      for index, item in ipairs(entry or {}) do
        if index > MAX_ITEMS then
          break
        end
        item.item = show_one(tree, kind, full, buf, item)
      end
    elseif entry then
      show_one(tree, kind, full, buf, entry)
    elseif not field.optional then
      local missing = {o = behind, n = 0, v = EMPTY[kind] or 0, h = 0}
      show_one(tree, kind, full, buf, missing):set_generated()
    end
  end
end

-- Value of a field as a number, 0 where it was left out.
function P.value(message, name)
  local entry = message[name]
  return entry and P.number(entry.v, entry.h) or 0
end

-- Value of a signed field.
function P.signed32(message, name)
  local entry = message[name]
  local value = entry and entry.v or 0
  return value >= 2147483648 and value - 4294967296 or value
end

function P.signed64(message, name)
  local entry = message[name]
  if not entry then
    return 0
  elseif entry.h >= 2147483648 then
    return -P.number(negated(entry.v, entry.h))
  end
  return P.number(entry.v, entry.h)
end

function P.text(message, name)
  local entry = message[name]
  return entry and entry.v or ""
end

-- Offset and length of bytes; 0, 0 where they were left out.
function P.bytes(message, name)
  local entry = message[name]
  if entry then
    return entry.o, entry.n
  end
  return 0, 0
end
