-- vfio-user messages, little-endian: header, and the payload of each command and reply.

local add, le16, le32 = P.add, P.le16, P.le32
local HEADER = 16
local STATE_FEATURE = 2

local function u32(layer, name, buf, at)
  local value = le32(buf.s, at)
  add(layer, "vfio." .. name, buf, at, 4, value)
  return value
end

local function u64(layer, name, buf, at)
  local low, high = le32(buf.s, at), le32(buf.s, at + 4)
  add(layer, "vfio." .. name, buf, at, 8, low, high)
  return P.hex(low, high)
end

-- Bytes from offset `from` of the payload to its end.
local function data(layer, buf, at, count, from)
  if count <= from then
    return ""
  end
  add(layer, "vfio.data", buf, at + from, count - from)
  return ": " .. P.bytes_text(buf.s, at + from, math.min(count - from, 8), 8) .. (count - from > 8 and "..." or "")
end

local function version(layer, buf, at, count)
  local major, minor = le16(buf.s, at), le16(buf.s, at + 2)
  add(layer, "vfio.major", buf, at, 2, major)
  add(layer, "vfio.minor", buf, at + 2, 2, minor)
  local text = buf.s:sub(at + 5, at + count):gsub("\0+$", "")
  add(layer, "vfio.capabilities", buf, at + 4, count - 4, text)
  return string.format(" %d.%d %s", major, minor, text)
end

local function dma_map(layer, buf, at)
  u32(layer, "argsz", buf, at)
  local flags = u32(layer, "dma_flags", buf, at + 4)
  u64(layer, "file_offset", buf, at + 8)
  local address = u64(layer, "address", buf, at + 16)
  return string.format(" %s of %s bytes %s", address, u64(layer, "length", buf, at + 24),
                       P.flags("vfio.dma_flags", flags))
end

local function dma_unmap(layer, buf, at)
  u32(layer, "argsz", buf, at)
  u32(layer, "unmap_flags", buf, at + 4)
  local address = u64(layer, "address", buf, at + 8)
  return string.format(" %s of %s bytes", address, u64(layer, "length", buf, at + 16))
end

local function device_info(layer, buf, at, _, reply)
  u32(layer, "argsz", buf, at)
  u32(layer, "device_flags", buf, at + 4)
  local regions, irqs = u32(layer, "regions", buf, at + 8), u32(layer, "irqs", buf, at + 12)
  return reply and string.format(" %d regions, %d irqs", regions, irqs) or ""
end

local function region_info(layer, buf, at, _, reply)
  u32(layer, "argsz", buf, at)
  local region = u32(layer, "region", buf, at + 8)
  u32(layer, "region_flags", buf, at + 4)
  local size = u64(layer, "region_size", buf, at + 16)
  u64(layer, "file_offset", buf, at + 24)
  return " region " .. region .. (reply and " of " .. size .. " bytes" or "")
end

local function io_fds(layer, buf, at)
  u32(layer, "argsz", buf, at)
  local region = u32(layer, "region", buf, at + 8)
  add(layer, "vfio.count", buf, at + 12, 4, le32(buf.s, at + 12))
  return " region " .. region
end

local function irq_info(layer, buf, at, _, reply)
  u32(layer, "argsz", buf, at)
  u32(layer, "irq_flags", buf, at + 4)
  local irq, count = u32(layer, "irq", buf, at + 8), u32(layer, "irq_count", buf, at + 12)
  return " irq " .. irq .. (reply and " count " .. count or "")
end

local function set_irqs(layer, buf, at, count)
  u32(layer, "argsz", buf, at)
  local flags, irq = u32(layer, "irq_set", buf, at + 4), u32(layer, "irq", buf, at + 8)
  local start, irqs = u32(layer, "irq_start", buf, at + 12), u32(layer, "irq_count", buf, at + 16)
  data(layer, buf, at, count, 20)
  return string.format(" irq %d start %d count %d %s", irq, start, irqs, P.flags("vfio.irq_set", flags))
end

local function access(layer, buf, at, count)
  local offset, region = u64(layer, "offset", buf, at), u32(layer, "region", buf, at + 8)
  local length = le32(buf.s, at + 12)
  add(layer, "vfio.count", buf, at + 12, 4, length)
  return string.format(" region %d at %s, %d bytes%s", region, offset, length, data(layer, buf, at, count, 16))
end

local function multi(layer, buf, at, count)
  u64(layer, "count", buf, at)
  return string.format(" %s writes%s", P.decimal(le32(buf.s, at), le32(buf.s, at + 4)), data(layer, buf, at, count, 8))
end

local function dma(layer, buf, at, count)
  local address = u64(layer, "address", buf, at)
  u64(layer, "count", buf, at + 8)
  local length = P.decimal(le32(buf.s, at + 8), le32(buf.s, at + 12))
  return string.format(" %s, %s bytes%s", address, length, data(layer, buf, at, count, 16))
end

local function feature(layer, buf, at, count)
  u32(layer, "argsz", buf, at)
  local number, flags = le16(buf.s, at + 4), le16(buf.s, at + 6) * 65536
  add(layer, "vfio.feature", buf, at + 4, 2, number)
  add(layer, "vfio.feature_flags", buf, at + 4, 4, flags)
  local text = string.format(" %s %s", P.name("vfio.feature", number), P.flags("vfio.feature_flags", flags))
  if number == STATE_FEATURE and count >= 16 then
    local state = u32(layer, "migration_state", buf, at + 8)
    return text .. " " .. P.name("vfio.migration_state", state)
  end
  return text .. data(layer, buf, at, count, 8)
end

local function migration_data(layer, buf, at, count)
  u32(layer, "argsz", buf, at)
  local size = le32(buf.s, at + 4)
  add(layer, "vfio.count", buf, at + 4, 4, size)
  return string.format(" %d bytes%s", size, data(layer, buf, at, count, 8))
end

-- Command: least bytes of its payload, what shows it.
local PAYLOADS = {
  [1] = {4, version}, [2] = {32, dma_map}, [3] = {24, dma_unmap}, [4] = {16, device_info}, [5] = {32, region_info},
  [6] = {16, io_fds}, [7] = {16, irq_info}, [8] = {20, set_irqs}, [9] = {16, access}, [10] = {16, access},
  [11] = {16, dma}, [12] = {16, dma}, [15] = {8, multi}, [16] = {8, feature}, [17] = {8, migration_data},
  [18] = {8, migration_data},
}
-- Replies that may have no payload, or a count of 4 bytes only.
local EMPTY_REPLIES = {[2] = true, [3] = true, [8] = true, [12] = true, [18] = true}

-- Show a message; return it as text, and its header for pairing.
function P.vfio(ctx, tree, buf, at, count)
  local layer = P.layer(ctx, tree, "vfio", buf, at, count)
  if count < HEADER then
    local text = string.format("vfio-user message of %d bytes", count)
    P.problem(ctx, layer, "vfio", text .. ", 16 are the least")
    return text
  end
  local s = buf.s
  local id, command, size, flags, number = le16(s, at), le16(s, at + 2), le32(s, at + 4), le32(s, at + 8),
                                           le32(s, at + 12)
  add(layer, "vfio.id", buf, at, 2, id)
  add(layer, "vfio.command", buf, at + 2, 2, command)
  add(layer, "vfio.size", buf, at + 4, 4, size)
  add(layer, "vfio.flags", buf, at + 8, 4, flags)
  local kind, known = flags % 16, P.SPEC["vfio.command"].values[command]
  local is_reply, is_error = kind == 1, P.has(flags, 0x20)
  local text = known or string.format("command %d", command)
  if size ~= count then
    P.problem(ctx, layer, "vfio", string.format("size %d in a message of %d bytes", size, count))
  end
  if kind > 1 then
    P.problem(ctx, layer, "vfio", string.format("type %d", kind))
  end
  if not known then
    P.problem(ctx, layer, "vfio", string.format("unknown command %d", command))
  end
  local payload = PAYLOADS[command]
  if is_error then
    add(layer, "vfio.error", buf, at + 12, 4, number)
    text = text .. " reply " .. P.errno(number)
    P.note(layer, "refused: " .. P.errno(number))
  else
    if number ~= 0 then
      P.problem(ctx, layer, "vfio", string.format("errno %d without the Error bit", number))
    end
    local length = count - HEADER
    text = text .. (is_reply and " reply" or "")
    if not payload or (is_reply and EMPTY_REPLIES[command] and (length == 0 or length == 4)) then
      text = text .. ""
    elseif length < payload[1] then
      P.problem(ctx, layer, "vfio", string.format("%s: %d bytes of payload, %d are the least", text, length, payload[1]))
    else
      text = text .. payload[2](layer, buf, at + HEADER, length, is_reply)
    end
  end
  layer:append_text(": " .. text)
  return text, {id = id, is_reply = is_reply, wants_reply = kind == 0 and not P.has(flags, 0x10)}
end
