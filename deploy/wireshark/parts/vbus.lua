-- Bridge calls, events and packet descriptors of vbus; little-endian.  The parameters of a bridge call lie in memory:
-- they are found where the message carries what has changed of it.

local add, le16, le32, refuse = P.add, P.le16, P.le32, P.refuse
local MAX_PARAMETERS, MAX_WRITES = 4096, 64
local EVENT_BYTES, MIN_PACKET, PACKET_HEAD, FRAGMENT = 144, 48, 32, 16
local EXACT = 2 ^ 53
local ABI_MAGIC = 0xBF53EEF5
local NEGOTIATE, QREG, SLOWCALL = 0, 1, 2
local DEVOPEN, DEVCLOSE, DEVCALL = 0, 1, 2
local VENET_LENGTHS = {[0] = 0, [1] = 0, [2] = 6, [3] = 8, [4] = 0, [6] = 32, [7] = 32}
local MACQUERY, NEGCAP, EVQQUERY = 2, 3, 6

-- Fields are collected and shown together: a structure that is wrong shows none.
local function put(out, name, buf, at, count, low, high)
  out[#out + 1] = {"vbus." .. name, buf, at, count, low, high}
end

local function put32(out, name, buf, at)
  local value = le32(buf.s, at)
  put(out, name, buf, at, 4, value)
  return value
end

local function put64(out, name, buf, at)
  put(out, name, buf, at, 8, le32(buf.s, at), le32(buf.s, at + 4))
  return P.hex(le32(buf.s, at), le32(buf.s, at + 4))
end

local function add_all(tree, out)
  for _, row in ipairs(out) do
    add(tree, row[1], row[2], row[3], row[4], row[5], row[6])
  end
end

local function number64(s, at)
  return P.number(le32(s, at), le32(s, at + 4))
end

-- Memory made of the writes of a message, or else of all that was written before: buffer and offset of
-- (address, length), or nil.
local function memory_of(ctx, buf, message)
  local pieces = {}
  for _, item in ipairs(message.writes or {}) do
    local at, count = P.bytes(item.m, "data")
    pieces[#pieces + 1] = {P.value(item.m, "address"), at, count}
  end
  return function(address, length)
    if address >= EXACT then
      return nil
    end
    for index = #pieces, 1, -1 do
      local start, at, count = pieces[index][1], pieces[index][2], pieces[index][3]
      if start <= address and address + length <= start + count then
        return buf, at + address - start
      end
    end
    local known = ctx.image and P.remembered(ctx, address, length)
    if known then
      return P.buffer_of(known, "Memory"), 0
    end
  end
end

local function exactly(what, length, wanted)
  if length ~= wanted then
    refuse("%s of %d bytes, not %d", what, length, wanted)
  end
end

local function hole(what, s, at, count)
  if not P.is_zero(s, at, count) then
    refuse("%s: reserved byte", what)
  end
end

local function put_venet(out, name, ...)
  put(out, name, ...)
  out[#out][1] = "venet." .. name
end

-- The layer of a devcall, if it can be one of an Ethernet device: fields and text.
local function venet_call(func, length, data, at, call, call_at)
  if VENET_LENGTHS[func] ~= length then
    return nil
  end
  local out, text = {}, "venet " .. P.name("venet.function", func)
  put_venet(out, "function", call, call_at + 8, 4, func)
  if data and func == MACQUERY then
    local mac = P.bytes_text(data.s, at, 6, 6):gsub("(%x%x)", "%1:"):sub(1, -2)
    put_venet(out, "mac", data, at, 6, mac)
    text = text .. " " .. mac
  elseif data and func == NEGCAP then
    local group, bits = le32(data.s, at), le32(data.s, at + 4)
    if group > 2 then
      return nil
    end
    put_venet(out, "group", data, at, 4, group)
    put_venet(out, "bits", data, at + 4, 4, bits)
    text = string.format("%s %s 0x%x", text, P.name("venet.group", group), bits)
  elseif data and func == EVQQUERY then
    if not P.is_zero(data.s, at + 16, 16) then
      return nil
    end
    put_venet(out, "event_bytes", data, at + 4, 4, le32(data.s, at + 4))
    put_venet(out, "pool", data, at + 8, 4, le32(data.s, at + 8))
    put_venet(out, "queue", data, at + 12, 4, le32(data.s, at + 12))
  end
  return out, text
end

local function devcall(state, out, buf, at, memory)
  hole("DEVCALL", buf.s, at + 20, 4)
  local handle = put64(out, "handle", buf, at)
  local func, length = put32(out, "func", buf, at + 8), put32(out, "call_length", buf, at + 12)
  put32(out, "call_flags", buf, at + 16)
  put64(out, "call_address", buf, at + 24)
  local text = string.format(" handle %s func %d, %d bytes", handle, func, length)
  local data, data_at
  if length > 0 and length <= MAX_PARAMETERS then
    data, data_at = memory(number64(buf.s, at + 24), length)
  end
  if data then
    put(out, "call_data", data, data_at, length)
  end
  local fields, what = venet_call(func, length, data, data_at, buf, at)
  if fields then
    state.venet, state.venet_text, state.venet_buf, state.venet_at = fields, what, buf, at
    text = text .. " (" .. what .. ")"
  end
  return text
end

local function devshm(out, buf, at)
  hole("DEVSHM", buf.s, at + 20, 4)
  local handle = put64(out, "handle", buf, at)
  local id, length = put32(out, "shm_id", buf, at + 8), put32(out, "shm_length", buf, at + 12)
  put64(out, "shm_address", buf, at + 40)
  put32(out, "shm_signal_offset", buf, at + 24)
  put32(out, "shm_prio", buf, at + 28)
  put64(out, "shm_cookie", buf, at + 32)
  return string.format(" handle %s region %d of %d bytes", handle, id, length)
end

local BUS_LENGTHS = {[0] = 16, [1] = 8, [2] = 32, [3] = 48}

-- The call to the bus that stands at `at`.
local function bus_call(ctx, layer, state, out, call, call_at, memory)
  local vector, length = put32(out, "bus_vector", call, call_at), le32(call.s, call_at + 4)
  local name = P.SPEC["vbus.bus_vector"].values[vector]
  if not name then
    P.problem(ctx, layer, "vbus", string.format("bus call %d: no such vector", vector))
    return "SLOWCALL"
  end
  local buf, at
  if length <= MAX_PARAMETERS then
    buf, at = memory(number64(call.s, call_at + 8), length)
  end
  if not buf then
    return name
  end
  exactly(name, length, BUS_LENGTHS[vector])
  if vector == DEVOPEN then
    put(out, "device", buf, at, 4, le32(buf.s, at))
    local version = put32(out, "device_version", buf, at + 4)
    put64(out, "handle", buf, at + 8)
    return string.format("%s device %d version %d", name, le32(buf.s, at), version)
  elseif vector == DEVCLOSE then
    return name .. " handle " .. put64(out, "handle", buf, at)
  elseif vector == DEVCALL then
    return name .. devcall(state, out, buf, at, memory)
  end
  return name .. devshm(out, buf, at)
end

local function queues(out, name, buf, at, length)
  local s = buf.s
  if length < 8 then
    refuse("%d bytes", length)
  end
  local count = le32(s, at)
  if count < 1 or count > 8 then
    refuse("%d queues", count)
  end
  hole(name, s, at + 4, 4)
  exactly(name, length, 8 + 24 * count)
  for queue = at + 8, at + length - 24, 24 do
    hole(name, s, queue + 4, 4)
    put32(out, "queue_events", buf, queue)
    put64(out, "queue_ring", buf, queue + 8)
    put64(out, "queue_data", buf, queue + 16)
  end
  return string.format("%s %d queues of %d events", name, count, le32(s, at + 8))
end

local function parameters(ctx, layer, state, out, vector, name, buf, at, length, memory)
  if vector == QREG then
    return queues(out, name, buf, at, length)
  end
  exactly(name, length, 16)
  if vector == SLOWCALL then
    return bus_call(ctx, layer, state, out, buf, at, memory)
  elseif vector ~= NEGOTIATE then
    return name .. " channel " .. put32(out, "channel", buf, at)
  end
  if le32(buf.s, at) ~= ABI_MAGIC or le32(buf.s, at + 4) ~= 1 then
    refuse("magic or version")
  end
  put32(out, "magic", buf, at)
  put32(out, "abi_version", buf, at + 4)
  return name .. " capabilities " .. put64(out, "capabilities", buf, at + 8)
end

-- The 16 bytes of BAR0 and what they lead to.
function P.body_vbus_call(ctx, layer, buf, message)
  local s, at, count = buf.s, P.bytes(message, "call")
  if count ~= 16 then
    P.problem(ctx, layer, "vbus", string.format("bridge call of %d bytes, not 16", count))
    return string.format("bridge call of %d bytes", count)
  end
  local vector, length = le32(s, at), le32(s, at + 4)
  add(layer, "vbus.vector", buf, at, 4, vector)
  add(layer, "vbus.parameter_length", buf, at + 4, 4, length)
  add(layer, "vbus.parameter_address", buf, at + 8, 8, le32(s, at + 8), le32(s, at + 12))
  local name = P.SPEC["vbus.vector"].values[vector]
  if not name then
    P.problem(ctx, layer, "vbus", string.format("bridge call %d: no such vector", vector))
    return string.format("bridge call %d", vector)
  end
  local memory, inner, inner_at = memory_of(ctx, buf, message), nil, nil
  if length <= MAX_PARAMETERS then
    inner, inner_at = memory(number64(s, at + 8), length)
  end
  if not inner then
    return name .. " at " .. P.hex(le32(s, at + 8), le32(s, at + 12))
  end
  local out, state = {}, {}
  local text, wrong = P.guarded(parameters, ctx, layer, state, out, vector, name, inner, inner_at, length, memory)
  if not text then
    P.problem(ctx, layer, "vbus", name .. ": " .. wrong)
    return name
  end
  add_all(layer, out)
  layer:append_text(": " .. text)
  if state.venet then
    local venet = P.layer(ctx, ctx.root, "venet", state.venet_buf, state.venet_at, BUS_LENGTHS[DEVCALL])
    venet:append_text(": " .. state.venet_text)
    add_all(venet, state.venet)
  end
  return text
end

local function event(ctx, tree, buf, at)
  local s, number = buf.s, le32(buf.s, at)
  if number > 3 or not P.is_zero(s, at + 4, 4) then
    return nil
  end
  local name = number == 0 and s:sub(at + 17, at + EVENT_BYTES):match("^[^\0]*") or ""
  if number == 0 and not name:match("^[-_.a-z0-9]+$") or number ~= 0 and P.is_zero(s, at, 16) then
    return nil
  end
  local layer = P.layer(ctx, tree, "vbus", buf, at, EVENT_BYTES)
  add(layer, "vbus.event", buf, at, 4, number)
  add(layer, "vbus.event_handle", buf, at + 8, 8, le32(s, at + 8), le32(s, at + 12))
  local text = "event " .. P.name("vbus.event", number) .. " " .. P.hex(le32(s, at + 8), le32(s, at + 12))
  if number == 0 then
    add(layer, "vbus.event_type", buf, at + 16, #name, name)
    text = text .. " " .. name
  end
  layer:append_text(": " .. text)
  return text
end

local function packet(ctx, tree, buf, at, count)
  local s = buf.s
  local flags, length, fragments = le32(s, at + 8), le32(s, at + 12), le32(s, at + 28)
  if flags > 7 or fragments < 1 or fragments > 18 or count ~= PACKET_HEAD + FRAGMENT * fragments
    or s:byte(at + 22) ~= 0 or le16(s, at + 26) ~= 0 then
    return nil
  end
  local sum = 0
  for piece = at + PACKET_HEAD, at + count - FRAGMENT, FRAGMENT do
    if le32(s, piece + 4) ~= 0 then
      return nil
    end
    sum = sum + le32(s, piece)
  end
  if sum ~= length then
    return nil
  end
  local layer = P.layer(ctx, tree, "venet", buf, at, count)
  add(layer, "venet.cookie", buf, at, 8, le32(s, at), le32(s, at + 4))
  add(layer, "venet.flags", buf, at + 8, 4, flags)
  add(layer, "venet.length", buf, at + 12, 4, length)
  add(layer, "venet.fragments", buf, at + 28, 4, fragments)
  add(layer, "venet.csum_start", buf, at + 16, 2, le16(s, at + 16))
  add(layer, "venet.csum_offset", buf, at + 18, 2, le16(s, at + 18))
  add(layer, "venet.gso_type", buf, at + 20, 1, s:byte(at + 21))
  add(layer, "venet.gso_hdrlen", buf, at + 22, 2, le16(s, at + 22))
  add(layer, "venet.gso_size", buf, at + 24, 2, le16(s, at + 24))
  local text = string.format("packet of %d bytes in %d pieces", length, fragments)
  layer:append_text(": " .. text)
  return text
end

-- A piece of a ring, where its bytes leave no doubt: an event, or the descriptor of a packet.
function P.ring_piece(ctx, tree, buf, at, count)
  if count == EVENT_BYTES then
    return event(ctx, tree, buf, at)
  elseif count >= MIN_PACKET then
    return packet(ctx, tree, buf, at, count)
  end
end

local function writes(ctx, buf, message)
  local text, total = "", 0
  for index, item in ipairs(message.writes or {}) do
    local at, count = P.bytes(item.m, "data")
    total = total + count
    local what = index <= MAX_WRITES and P.ring_piece(ctx, ctx.root, buf, at, count)
    if what then
      text = text .. " (" .. what .. ")"
    end
  end
  if message.writes then
    text = string.format("%s +%d bytes in %d writes", text, total, #message.writes)
  end
  return text
end

function P.body_vbus_attach(_, _, _, message)
  local base, bytes = message.base or {v = 0}, message.bytes or {v = 0}
  return string.format("attach %s bytes of memory at %s%s", P.hex(bytes.v, bytes.h), P.hex(base.v, base.h),
                       message.shared and ", shared" or "")
end

function P.body_vbus_reply(ctx, layer, buf, message)
  local result = P.signed32(message, "result")
  if result < 0 then
    P.note(layer, "refused: " .. P.errno(-result))
  end
  return (result < 0 and "-" .. P.errno(-result) or tostring(result)) .. writes(ctx, buf, message)
end

function P.body_vbus_doorbell(ctx, layer, buf, message)
  local offset = P.value(message, "offset")
  local name = P.SPEC["vbus.offset"].values[offset]
  if not name then
    P.problem(ctx, layer, "vbus", string.format("doorbell at offset %d: there is no register", offset))
  end
  return string.format("doorbell %s 0x%x%s", name or offset, P.value(message, "value"), writes(ctx, buf, message))
end

function P.body_vbus_irq(ctx, _, buf, message)
  return string.format("irq of event queue %d%s", P.value(message, "queue"), writes(ctx, buf, message))
end

function P.body_vbus_update(ctx, _, buf, message)
  return "memory" .. writes(ctx, buf, message) .. (P.value(message, "more") ~= 0 and ", more follows" or "")
end
