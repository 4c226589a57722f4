-- Elements of command/response queues, and VMC messages in them; big-endian.

local add = P.add
local ELEMENT_BYTES = 16

-- Which fields a VMC message of each type has, in this order: name, offset, bytes.
local STATUS, SESSION, INDEX = {"vmc.status", 2, 1}, {"vmc.session", 4, 1}, {"vmc.index", 5, 1}
local BUFFER, OWNER = {"vmc.buffer_id", 6, 2}, {"vmc.owner", 3, 1}
local LIMITS = {
  {"vmc.max_hmc", 5, 1}, {"vmc.pool_size", 6, 2}, {"vmc.max_mtu", 8, 4}, {"vmc.crq_size", 12, 2}, {"vmc.version", 14, 2},
}
local VMC = {
  [0x01] = LIMITS,
  [0x81] = {STATUS, LIMITS[1], LIMITS[2], LIMITS[3], LIMITS[4], LIMITS[5]},
  [0x02] = {SESSION, INDEX, BUFFER},
  [0x82] = {STATUS, SESSION, INDEX, BUFFER},
  [0x03] = {SESSION, INDEX},
  [0x83] = {STATUS, SESSION, INDEX},
  [0x04] = {OWNER, SESSION, INDEX, BUFFER, {"vmc.lioba", 12, 4}},
  [0x84] = {STATUS, SESSION, INDEX, BUFFER},
  [0x05] = {SESSION, INDEX},
  [0x85] = {STATUS, SESSION, INDEX, BUFFER},
  [0x06] = {SESSION, INDEX, BUFFER, {"vmc.length", 12, 4}},
}
local MAX_STATUS = 5

-- Other drivers use the same first byte and some of the same types: what VMC messages always have and others rarely.
local function looks_like_vmc(s, at, kind)
  if not VMC[kind] then
    return false
  elseif kind == 0x01 or kind == 0x81 then
    return s:byte(at + 15) == 1 and P.is_zero(s, at + 3, 2)
  elseif kind == 0x06 then
    return true
  elseif kind == 0x04 then
    return P.is_zero(s, at + 8, 4)
  end
  return P.is_zero(s, at + 8, 8)
end

local READ = {[1] = function(s, at) return s:byte(at + 1) end, [2] = P.be16, [4] = P.be32}

local function vmc_text(kind, value)
  local words = {P.name("vmc.type", kind)}
  if kind % 128 == 1 then
    words[2] = string.format("max_hmc %d pool %d MTU %d CRQ %d version %d.%d", value["vmc.max_hmc"],
                             value["vmc.pool_size"], value["vmc.max_mtu"], value["vmc.crq_size"],
                             math.floor(value["vmc.version"] / 256), value["vmc.version"] % 256)
  else
    words[2] = string.format("hmc %d/%d", value["vmc.index"], value["vmc.session"])
    local number = value["vmc.buffer_id"]
    if number then
      words[#words + 1] = number == 0xFFFF and "no buffer" or "buffer " .. number
    end
  end
  if kind == 0x04 then
    words[#words + 1] = string.format("owner %s lioba 0x%x", value["vmc.owner"] == 0 and "partition" or "hypervisor",
                                      value["vmc.lioba"])
  elseif kind == 0x06 then
    words[#words + 1] = "length " .. value["vmc.length"]
  end
  local status = value["vmc.status"]
  if status then
    words[#words + 1] = status == 0 and "ok" or "status " .. status
  end
  return table.concat(words, " ")
end

local function vmc(ctx, tree, buf, at, kind)
  local layer = P.layer(ctx, tree, "vmc", buf, at, ELEMENT_BYTES)
  add(layer, "vmc.type", buf, at + 1, 1, kind)
  local rows, values = VMC[kind], {}
  if not rows then
    P.problem(ctx, layer, "vmc", string.format("unknown VMC type 0x%02x", kind))
    return string.format("VMC type 0x%02x", kind)
  end
  for _, row in ipairs(rows) do
    local value = READ[row[3]](buf.s, at + row[2])
    values[row[1]] = value
    add(layer, row[1], buf, at + row[2], row[3], value)
  end
  local text, status = vmc_text(kind, values), values["vmc.status"]
  layer:append_text(": " .. text)
  if status and status > MAX_STATUS then
    P.note(layer, "status " .. status .. " has no name in any dialect")
  elseif status and status ~= 0 then
    P.note(layer, "refused: status " .. status)
  end
  return "VMC " .. text
end

-- Show an element; `own` adds fields of the message around it to its layer; return it as text.
function P.element(ctx, tree, buf, at, count, own, is_vmc)
  local layer = P.layer(ctx, tree, "crq", buf, at, count)
  if own then
    own(layer)
  end
  if count ~= ELEMENT_BYTES then
    P.problem(ctx, layer, "crq", string.format("CRQ element of %d bytes, not 16", count))
    return string.format("element of %d bytes", count)
  end
  local header, kind = buf.s:byte(at + 1, at + 2)
  add(layer, "crq.header", buf, at, 1, header)
  add(layer, "crq.format", buf, at + 1, 1, kind)
  local text
  if header == 0xC0 and (kind == 1 or kind == 2) then
    add(layer, "crq.init", buf, at + 1, 1, kind)
    text = kind == 1 and "INIT" or "INIT COMPLETE"
  elseif header == 0xFF then
    add(layer, "crq.event", buf, at + 1, 1, kind)
    text = "XPORT " .. P.name("crq.event", kind)
    if not P.SPEC["crq.event"].values[kind] then
      P.problem(ctx, layer, "crq", string.format("unknown transport event 0x%02x", kind))
    else
      P.note(layer, text)
    end
  elseif header == 0x80 then
    if is_vmc or looks_like_vmc(buf.s, at, kind) then
      return vmc(ctx, tree, buf, at, kind)
    end
    text = string.format("type 0x%02x", kind)
  elseif header == 0 then
    text = "EMPTY"
  else
    text = string.format("RESERVED %02x %02x", header, kind)
    P.problem(ctx, layer, "crq", string.format("reserved CRQ header %02x %02x", header, kind))
  end
  layer:append_text(": " .. text)
  return "CRQ " .. text
end
