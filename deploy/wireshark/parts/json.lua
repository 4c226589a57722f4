-- Lines of recordings (link type 148): JSON, read for what the other parts can show.  Wireshark's own dissector shows
-- the whole line.

local ESCAPES = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}
local MAX_NESTING = 16
local value

local function text_at(s, at)
  local parts = {}
  while true do
    local stop = s:find('["\\]', at)
    if not stop then
      P.refuse("a text that does not end")
    end
    parts[#parts + 1] = s:sub(at, stop - 1)
    if s:sub(stop, stop) == '"' then
      return table.concat(parts), stop + 1
    end
    local letter = s:sub(stop + 1, stop + 1)
    if letter == "u" then
      parts[#parts + 1], at = "?", stop + 6
    else
      parts[#parts + 1], at = ESCAPES[letter] or letter, stop + 2
    end
  end
end

local function items(s, at, close, depth, one)
  at = s:match("^%s*()", at)
  if s:sub(at, at) == close then
    return at + 1
  end
  while true do
    at = one(at, depth + 1)
    local mark, behind = s:match("^%s*(.)%s*()", at)
    if mark == close then
      return s:find(close, at, true) + 1
    elseif mark ~= "," then
      P.refuse("not JSON")
    end
    at = behind
  end
end

-- The value at a position and the position behind.  Numbers stay texts, since they may have 64 bits.
function value(s, at, depth)
  at = s:match("^%s*()", at)
  local first = s:sub(at, at)
  if depth > MAX_NESTING then
    P.refuse("nested too deep")
  elseif first == '"' then
    return text_at(s, at + 1)
  elseif first == "{" then
    local object = {}
    return object, items(s, at + 1, "}", depth, function(here, inner)
      local start = s:match('^%s*"()', here) or P.refuse("not JSON")
      local key, colon = text_at(s, start)
      local behind = s:match("^%s*:()", colon) or P.refuse("not JSON")
      object[key], behind = value(s, behind, inner)
      return behind
    end)
  elseif first == "[" then
    local list = {}
    return list, items(s, at + 1, "]", depth, function(here, inner)
      local item, behind = value(s, here, inner)
      list[#list + 1] = item == nil and P.UNKNOWN or item
      return behind
    end)
  end
  local word, behind = s:match("^(%-?[%w.+-]+)()", at)
  if word == "null" then
    return nil, behind
  elseif word == "true" or word == "false" then
    return word == "true", behind
  elseif word and word:match("^%-?%d") then
    return {number = word}, behind
  end
  P.refuse("not JSON")
end

P.UNKNOWN = {}

function P.read_json(s)
  local found, wrong = P.guarded(value, s, 1, 0)
  if type(found) ~= "table" or found.number then
    return nil, wrong or "not an object"
  end
  return found
end

-- Two halves of a number: of JSON, or a text such as "0x1f"; nil if it is none.
function P.halves(item)
  local text = type(item) == "table" and item.number or item
  if type(text) ~= "string" then
    return nil
  end
  local minus, digits = text:match("^(%-?)(%d+)$")
  local hex = text:match("^0[xX](%x+)$")
  local low, high
  if hex and #hex <= 16 then
    hex = ("0"):rep(16 - #hex) .. hex
    high, low = tonumber(hex:sub(1, 8), 16), tonumber(hex:sub(9), 16)
  elseif digits and #digits <= 20 then
    low, high = 0, 0
    for digit in digits:gmatch("%d") do
      low = low * 10 + tonumber(digit)
      high = high * 10 + math.floor(low / 4294967296)
      low = low % 4294967296
    end
    if high > 4294967295 then
      return nil
    end
    if minus == "-" and (low ~= 0 or high ~= 0) then
      low, high = 4294967296 - low, 4294967295 - high
      if low == 4294967296 then
        low, high = 0, (high + 1) % 4294967296
      end
    end
  end
  return low, high
end

local OPCODE_OF = {}
for number, name in pairs(OPCODES) do
  OPCODE_OF[name] = number
end

local function list_of(tree, buf, name, items)
  local found, whole = {}, true
  for _, item in ipairs(type(items) == "table" and not items.number and items or {}) do
    local low, high = P.halves(item)
    if low then
      found[#found + 1] = {v = low, h = high}
      P.add(tree, name, buf, 0, buf.length, low, high)
    else
      whole = false
    end
  end
  return found, whole
end

local function hcall(ctx, buf, entry)
  local layer = P.layer(ctx, ctx.root, "hcall", buf, 0, buf.length)
  local low, high
  if type(entry.hcall) == "string" and OPCODE_OF[entry.hcall] then
    low, high = OPCODE_OF[entry.hcall], 0
  else
    low, high = P.halves(entry.opcode or entry.hcall)
  end
  if not low then
    return "hcall"
  end
  P.add(layer, "hcall.opcode", buf, 0, buf.length, low, high)
  local args, whole = list_of(layer, buf, "hcall.args", entry.args)
  local rc_low, rc_high = P.halves(entry.rc)
  local outs = {}
  if rc_low then
    P.add(layer, "hcall.rc", buf, 0, buf.length, rc_low, rc_high)
    outs = list_of(layer, buf, "hcall.outs", entry.outs)
  end
  local text
  if low == 0x108 and high == 0 and whole and #args >= 3 then
    text = P.send_crq(ctx, layer, args, buf, 0, buf.length)
  elseif whole then
    text = P.call_text(low, high, args)
  else
    text = P.opcode_name(low, high)
  end
  if rc_low then
    local rc = rc_high >= 2147483648 and rc_low - 4294967296 or P.number(rc_low, rc_high)
    text = text .. " = " .. P.result_text(rc, outs, high == 0 and low or nil)
  end
  return text
end

-- Show a line; return it as text, and the kind of record.
function P.json_record(ctx, buf)
  local entry, wrong = P.read_json(buf.s)
  if not entry then
    if not ctx.is_cut then
      P.problem(ctx, ctx.root, "hcall", "a line of a recording: " .. wrong)
    end
    return "line", "unknown"
  end
  local element = entry.crq or entry.crq_in
  if entry.hcall or entry.opcode then
    return hcall(ctx, buf, entry), "hcall"
  elseif type(element) == "string" and element:match("^%x+$") and #element % 2 == 0 then
    local bytes = element:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
    local inner = P.buffer_of(bytes, "CRQ element")
    local text = P.element(ctx, ctx.root, inner, 0, inner.length, function(layer)
      P.add(layer, "crq.element", inner, 0, inner.length)
    end, entry.from ~= nil)
    return text, "crq"
  end
  for _, name in ipairs({"mark", "event", "app", "lost", "meta"}) do
    if entry[name] ~= nil then
      local shown = entry[name]
      return name .. " " .. (type(shown) == "string" and shown or ""), name
    end
  end
  return "line", "unknown"
end
