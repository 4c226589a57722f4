-- What all parts use: the protocols, their fields, reading numbers, problems.

P.proto = Proto("pvnet", "pvnet")
P.json_proto = Proto("pvnet_hcall", "pvnet recorded hypervisor call")
P.memory_proto = Proto("pvnet_memory", "pvnet memory contents")
P.mqtt_proto = Proto("pvnet_mqtt", "pvnet over MQTT")

local LAYERS = {
  envelope = "Envelope", hcall = "Hypervisor call", crq = "Command/response queue element", vmc = "VMC message",
  irq = "Interrupt", memory = "Memory", vbus = "vbus", venet = "venet", net = "Link between switches",
  device = "Character device", mdev = "Mediated device", vfio = "vfio-user message", mgmt = "Management",
  lifecycle = "Lifecycle", link = "Link layer", refusal = "Refusal", router = "VMC router message",
}
P.LAYER_TEXT = LAYERS

local fields, F, TYPE, SPEC = {}, {}, {}, {}
P.SPEC = SPEC
for _, row in ipairs(FIELDS) do
  local name, kind, is_hex, is_flags, values, help = row[1], row[2], row[3], row[4], row[5], row[6]
  local label = name:match("[^.]+$"):gsub("_", " ")
  label = label:sub(1, 1):upper() .. label:sub(2)
  local abbr, made, is_special = "pvnet." .. name, nil, false
  if kind == "bytes" then
    made = ProtoField.bytes(abbr, label, base.NONE, help)
  elseif kind == "string" then
    made = ProtoField.string(abbr, label, base.UNICODE or base.NONE, help)
  elseif kind == "bool" then
    made = ProtoField.bool(abbr, label, base.NONE, nil, nil, help)
  else
    -- A table that names special values only would call all others unknown: P.add says those.
    local _, first = next(values or {})
    is_special = not is_flags and first and next(values, (next(values))) == nil
    local shown = not is_flags and not is_special and values or nil
    made = ProtoField[kind](abbr, label, is_hex and base.HEX or base.DEC, shown, nil, help)
  end
  F[name], TYPE[name], SPEC[name] = made, kind, {values = values, flags = is_flags, hex = is_hex, special = is_special}
  fields[#fields + 1] = made
end

local HEADINGS, EXPERTS, experts = {}, {}, {}
for name, text in pairs(LAYERS) do
  HEADINGS[name] = ProtoField.none("pvnet." .. name, text)
  fields[#fields + 1] = HEADINGS[name]
  EXPERTS[name] = ProtoExpert.new("pvnet." .. name .. ".problem", text .. ": problem", expert.group.PROTOCOL,
                                  expert.severity.ERROR)
  experts[#experts + 1] = EXPERTS[name]
end
local NOTE = ProtoExpert.new("pvnet.note", "Worth a look", expert.group.RESPONSE_CODE, expert.severity.NOTE)
experts[#experts + 1] = NOTE

-- Short names of what every message has, and what links calls to replies.
P.SOURCE = ProtoField.string("pvnet.source", "Source", base.UNICODE or base.NONE, "Node that sent it")
P.DESTINATION = ProtoField.string("pvnet.destination", "Destination", base.UNICODE or base.NONE, "Node that gets it")
P.NODE = ProtoField.string("pvnet.node", "Either end", base.UNICODE or base.NONE, "Source or destination")
P.KIND = ProtoField.string("pvnet.kind", "Kind", base.NONE, "Kind of body, hcall, memory")
P.REPLY_IN = ProtoField.framenum("pvnet.reply_in", "Reply in", base.NONE, frametype.RESPONSE)
P.CALL_IN = ProtoField.framenum("pvnet.call_in", "Call in", base.NONE, frametype.REQUEST)
P.LATENCY = ProtoField.relative_time("pvnet.latency", "Time from call to reply")
P.CALL_OPCODE = ProtoField.uint64("pvnet.call_opcode", "Opcode of the call", base.HEX, OPCODES,
                                  nil, "The hypervisor call that this answers")
for _, made in ipairs({P.SOURCE, P.DESTINATION, P.NODE, P.KIND, P.REPLY_IN, P.CALL_IN, P.LATENCY, P.CALL_OPCODE}) do
  fields[#fields + 1] = made
end
P.proto.fields = fields
P.proto.experts = experts

-- Numbers of more than 32 bits are two halves.
function P.u64(low, high)
  return UInt64.new(low, high or 0)
end

function P.number(low, high)
  return low + (high or 0) * 4294967296
end

-- 0x1f of two halves.
function P.hex(low, high)
  if high and high ~= 0 then
    return string.format("0x%x%08x", high, low)
  end
  return string.format("0x%x", low)
end

function P.decimal(low, high)
  if high and high ~= 0 then
    return tostring(UInt64.new(low, high))
  end
  return string.format("%.0f", low)
end

-- Bytes of a packet: the tvb, and the same as a text of Lua, which is read much faster.
function P.buffer(tvb)
  local length = tvb:len()
  return {tvb = tvb, s = length > 0 and tvb:raw(0, length) or "", length = length}
end

function P.buffer_of(text, name)
  local hex = text:gsub(".", function(c) return string.format("%02x", c:byte()) end)
  local tvb = ByteArray.new(hex):tvb(name)
  return {tvb = tvb, s = text, length = #text}
end

local byte = string.byte
function P.be16(s, at)
  local a, b = byte(s, at + 1, at + 2)
  return a * 256 + b
end
function P.be32(s, at)
  local a, b, c, d = byte(s, at + 1, at + 4)
  return ((a * 256 + b) * 256 + c) * 256 + d
end
function P.le16(s, at)
  local a, b = byte(s, at + 1, at + 2)
  return b * 256 + a
end
function P.le32(s, at)
  local a, b, c, d = byte(s, at + 1, at + 4)
  return ((d * 256 + c) * 256 + b) * 256 + a
end

function P.is_zero(s, at, count)
  local found = s:find("[^\0]", at + 1)
  return not found or found > at + count
end

-- First bytes in hex.
function P.bytes_text(s, at, count, most)
  local shown = s:sub(at + 1, at + math.min(count, most)):gsub(".", function(c)
    return string.format("%02x", c:byte())
  end)
  if count > most then
    return shown .. string.format("... (%d bytes)", count)
  end
  return shown
end

-- Whether a number has this bit; without a library for bits, since versions of Lua do not agree on one.
function P.has(value, bit)
  return math.floor(value / bit) % 2 == 1
end

local function flag_names(values, value)
  local words, numbers = {}, {}
  for bit in pairs(values) do
    numbers[#numbers + 1] = bit
  end
  table.sort(numbers)
  for _, bit in ipairs(numbers) do
    if bit ~= 0 and P.has(value, bit) then
      words[#words + 1] = values[bit]
    end
  end
  return table.concat(words, "|")
end

function P.flags(name, value)
  return flag_names(SPEC[name].values, value)
end

-- Name of a number of a field, or the number.
function P.name(name, value)
  local spec = SPEC[name]
  return spec.values and spec.values[value] or string.format(spec.hex and "0x%x" or "%d", value)
end

-- Add the field `name`; `value` is not needed for bytes; numbers of 64 bits are two halves.
function P.add(tree, name, buf, at, count, value, high)
  local kind, range, item = TYPE[name], buf.tvb:range(at, count), nil
  if kind == "uint64" then
    item = tree:add(F[name], range, UInt64.new(value, high or 0))
  elseif kind == "int64" then
    item = tree:add(F[name], range, Int64.new(value, high or 0))
  elseif kind == "bytes" then
    item = tree:add(F[name], range)
  elseif kind == "bool" then
    item = tree:add(F[name], range, value ~= 0 and value ~= false)
  else
    if kind == "int32" and value >= 2147483648 then
      value = value - 4294967296
    elseif kind == "string" and value:find("\0", 1, true) then
      value = value:gsub("\0", "\\0") -- a text ends at its first NUL in Wireshark
    end
    item = tree:add(F[name], range, value)
  end
  local spec = SPEC[name]
  if spec.flags and value then
    local text = flag_names(spec.values, value)
    if text ~= "" then
      item:append_text(" " .. text)
    end
  elseif spec.special and spec.values[value] then
    item:append_text(" (" .. spec.values[value] .. ")")
  end
  return item
end

-- The subtree of a layer.
function P.layer(ctx, tree, name, buf, at, count)
  local item = tree:add(HEADINGS[name], buf.tvb:range(at, count))
  ctx.protocol = name
  return item
end

function P.problem(ctx, tree, layer, text)
  ctx.problems = ctx.problems + 1
  tree:add_proto_expert_info(EXPERTS[layer], text)
end

function P.note(tree, text)
  tree:add_proto_expert_info(NOTE, text)
end

function P.errno(number)
  return ERRNO[number] or string.format("errno %d", number)
end

-- Bytes that are not what they must be: caught by P.guarded.
local WIRE = {}
function P.refuse(text, ...)
  error(setmetatable({text = string.format(text, ...)}, WIRE), 0)
end

-- Result of the function, or nil and what is wrong; other errors go on.
function P.guarded(what, ...)
  local done, result = pcall(what, ...)
  if done then
    return result
  end
  if getmetatable(result) == WIRE then
    return nil, result.text
  end
  error(result, 0)
end
