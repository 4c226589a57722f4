"""The numbers of the POWER hypervisor-call ABI: every opcode, every return code, and what they mean to a caller.

An hcall goes out with the opcode in r3 and up to nine 64-bit arguments in r4 to r12; it comes back with a signed 64-bit
return code in r3 and up to nine outputs in r4 to r12.  Negative codes are errors, positive ones are states ("busy, ask
again", "closed", "partial").  Architected opcodes are multiples of 4; the few exceptions at 0xF001.. are QEMU's own.

Names are those of Linux' ``hvcall.h``; where LoPAR or QEMU spell one differently, the other spelling is an alias (same
member), so that both may be typed by a user.  Doubt decided: ``H_IN_PROGRESS`` asks for a retry only after
``H_ENABLE_CRQ``; it is therefore not :func:`is_busy`, but :class:`pvnet.papr.retry.BusyRetry` counts it.

Spec: LoPAR ch. 14 (LPAR option), "hcall() return codes"; Linux ``arch/powerpc/include/asm/hvcall.h``.
"""

from __future__ import annotations

from typing import Final

from pvnet.core.errors import LocalError
from pvnet.core.open_enum import OpenIntEnum


class HcallOpcode(OpenIntEnum):
    """Token in r3: 179 of the core range (all multiples of 4), then the ultravisor and platform-private ones."""

    H_REMOVE = 0x004
    H_ENTER = 0x008
    H_READ = 0x00C
    H_CLEAR_MOD = 0x010
    H_CLEAR_REF = 0x014
    H_PROTECT = 0x018
    H_GET_TCE = 0x01C
    H_PUT_TCE = 0x020
    H_SET_SPRG0 = 0x024
    H_SET_DABR = 0x028
    H_PAGE_INIT = 0x02C
    H_SET_ASR = 0x030
    H_ASR_ON = 0x034
    H_ASR_OFF = 0x038
    H_LOGICAL_CI_LOAD = 0x03C
    H_LOGICAL_CI_STORE = 0x040
    H_LOGICAL_CACHE_LOAD = 0x044
    H_LOGICAL_CACHE_STORE = 0x048
    H_LOGICAL_ICBI = 0x04C
    H_LOGICAL_DCBF = 0x050
    H_GET_TERM_CHAR = 0x054
    H_PUT_TERM_CHAR = 0x058
    H_REAL_TO_LOGICAL = 0x05C
    H_HYPERVISOR_DATA = 0x060
    H_EOI = 0x064
    H_CPPR = 0x068
    H_IPI = 0x06C
    H_IPOLL = 0x070
    H_XIRR = 0x074
    H_MIGRATE_DMA = 0x078
    H_PERFMON = 0x07C
    H_REGISTER_VPA = 0x0DC
    H_CEDE = 0x0E0
    H_CONFER = 0x0E4
    H_PROD = 0x0E8
    H_GET_PPP = 0x0EC
    H_SET_PPP = 0x0F0
    H_PURR = 0x0F4
    H_PIC = 0x0F8
    H_REG_CRQ = 0x0FC
    H_FREE_CRQ = 0x100
    H_VIO_SIGNAL = 0x104
    H_SEND_CRQ = 0x108
    H_COPY_RDMA = 0x110
    H_REGISTER_LOGICAL_LAN = 0x114
    H_FREE_LOGICAL_LAN = 0x118
    H_ADD_LOGICAL_LAN_BUFFER = 0x11C
    H_SEND_LOGICAL_LAN = 0x120
    H_BULK_REMOVE = 0x124
    H_MULTICAST_CTRL = 0x130
    H_SET_XDABR = 0x134
    H_STUFF_TCE = 0x138
    H_PUT_TCE_INDIRECT = 0x13C
    H_CHANGE_LOGICAL_LAN_MAC = 0x14C
    H_VTERM_PARTNER_INFO = 0x150
    H_REGISTER_VTERM = 0x154
    H_FREE_VTERM = 0x158
    H_RESET_EVENTS = 0x15C
    H_ALLOC_RESOURCE = 0x160
    H_FREE_RESOURCE = 0x164
    H_MODIFY_QP = 0x168
    H_QUERY_QP = 0x16C
    H_REREGISTER_PMR = 0x170
    H_REGISTER_SMR = 0x174
    H_QUERY_MR = 0x178
    H_QUERY_MW = 0x17C
    H_QUERY_HCA = 0x180
    H_QUERY_PORT = 0x184
    H_MODIFY_PORT = 0x188
    H_DEFINE_AQP1 = 0x18C
    H_GET_TRACE_BUFFER = 0x190
    H_DEFINE_AQP0 = 0x194
    H_RESIZE_MR = 0x198
    H_ATTACH_MCQP = 0x19C
    H_DETACH_MCQP = 0x1A0
    H_CREATE_RPT = 0x1A4
    H_REMOVE_RPT = 0x1A8
    H_REGISTER_RPAGES = 0x1AC
    H_DISABLE_AND_GET = 0x1B0
    H_ERROR_DATA = 0x1B4
    H_GET_HCA_INFO = 0x1B8
    H_GET_PERF_COUNT = 0x1BC
    H_MANAGE_TRACE = 0x1C0
    H_GET_CPU_CHARACTERISTICS = 0x1C8
    H_FREE_LOGICAL_LAN_BUFFER = 0x1D4
    H_POLL_PENDING = 0x1D8
    H_QUERY_INT_STATE = 0x1E4
    H_ILLAN_ATTRIBUTES = 0x244
    H_MODIFY_HEA_QP = 0x250
    H_QUERY_HEA_QP = 0x254
    H_QUERY_HEA = 0x258
    H_QUERY_HEA_PORT = 0x25C
    H_MODIFY_HEA_PORT = 0x260
    H_REG_BCMC = 0x264
    H_DEREG_BCMC = 0x268
    H_REGISTER_HEA_RPAGES = 0x26C
    H_DISABLE_AND_GET_HEA = 0x270
    H_GET_HEA_INFO = 0x274
    H_ALLOC_HEA_RESOURCE = 0x278
    H_ADD_CONN = 0x284
    H_DEL_CONN = 0x288
    H_JOIN = 0x298
    H_VASI_SIGNAL = 0x2A0
    H_VASI_STATE = 0x2A4
    H_VIOCTL = 0x2A8
    H_ENABLE_CRQ = 0x2B0
    H_GET_EM_PARMS = 0x2B8
    H_SET_MPP = 0x2D0
    H_GET_MPP = 0x2D4
    H_REG_SUB_CRQ = 0x2DC
    H_FREE_SUB_CRQ = 0x2E0
    H_SEND_SUB_CRQ = 0x2E4
    H_SEND_SUB_CRQ_INDIRECT = 0x2E8
    H_HOME_NODE_ASSOCIATIVITY = 0x2EC
    H_BEST_ENERGY = 0x2F4
    H_XIRR_X = 0x2FC
    H_RANDOM = 0x300
    H_COP = 0x304
    H_GET_MPP_X = 0x314
    H_SET_MODE = 0x31C
    H_BLOCK_REMOVE = 0x328
    H_CLEAR_HPT = 0x358
    H_REQUEST_VMC = 0x360
    H_RESIZE_HPT_PREPARE = 0x36C
    H_RESIZE_HPT_COMMIT = 0x370
    H_REGISTER_PROC_TBL = 0x37C
    H_SIGNAL_SYS_RESET = 0x380
    H_ALLOCATE_VAS_WINDOW = 0x388
    H_MODIFY_VAS_WINDOW = 0x38C
    H_DEALLOCATE_VAS_WINDOW = 0x390
    H_QUERY_VAS_WINDOW = 0x394
    H_QUERY_VAS_CAPABILITIES = 0x398
    H_QUERY_NX_CAPABILITIES = 0x39C
    H_GET_NX_FAULT = 0x3A0
    H_INT_GET_SOURCE_INFO = 0x3A8
    H_INT_SET_SOURCE_CONFIG = 0x3AC
    H_INT_GET_SOURCE_CONFIG = 0x3B0
    H_INT_GET_QUEUE_INFO = 0x3B4
    H_INT_SET_QUEUE_CONFIG = 0x3B8
    H_INT_GET_QUEUE_CONFIG = 0x3BC
    H_INT_SET_OS_REPORTING_LINE = 0x3C0
    H_INT_GET_OS_REPORTING_LINE = 0x3C4
    H_INT_ESB = 0x3C8
    H_INT_SYNC = 0x3CC
    H_INT_RESET = 0x3D0
    H_SCM_READ_METADATA = 0x3E4
    H_SCM_WRITE_METADATA = 0x3E8
    H_SCM_BIND_MEM = 0x3EC
    H_SCM_UNBIND_MEM = 0x3F0
    H_SCM_QUERY_BLOCK_MEM_BINDING = 0x3F4
    H_SCM_QUERY_LOGICAL_MEM_BINDING = 0x3F8
    H_SCM_UNBIND_ALL = 0x3FC
    H_SCM_HEALTH = 0x400
    H_SCM_PERFORMANCE_STATS = 0x418
    H_PKS_GET_CONFIG = 0x41C
    H_PKS_SET_PASSWORD = 0x420
    H_PKS_GEN_PASSWORD = 0x424
    H_PKS_WRITE_OBJECT = 0x42C
    H_PKS_GEN_KEY = 0x430
    H_PKS_READ_OBJECT = 0x434
    H_PKS_REMOVE_OBJECT = 0x438
    H_PKS_CONFIRM_OBJECT_FLUSHED = 0x43C
    H_RPT_INVALIDATE = 0x448
    H_SCM_FLUSH = 0x44C
    H_GET_ENERGY_SCALE_INFO = 0x450
    H_PKS_SIGNED_UPDATE = 0x454
    H_HTM = 0x458
    H_WATCHDOG = 0x45C
    H_GUEST_GET_CAPABILITIES = 0x460
    H_GUEST_SET_CAPABILITIES = 0x464
    H_GUEST_CREATE = 0x470
    H_GUEST_CREATE_VCPU = 0x474
    H_GUEST_GET_STATE = 0x478
    H_GUEST_SET_STATE = 0x47C
    H_GUEST_RUN_VCPU = 0x480
    H_GUEST_COPY_MEMORY = 0x484
    H_GUEST_DELETE = 0x488
    H_PKS_WRAP_OBJECT = 0x490
    H_PKS_UNWRAP_OBJECT = 0x494
    H_SVM_PAGE_IN = 0xEF00
    H_SVM_PAGE_OUT = 0xEF04
    H_SVM_INIT_START = 0xEF08
    H_SVM_INIT_DONE = 0xEF0C
    SVM_H_TPM_COMM = 0xEF10
    H_SVM_INIT_ABORT = 0xEF14
    H_RTAS = 0xF000
    H_LOGICAL_MEMOP = 0xF001
    H_CAS = 0xF002
    H_UPDATE_DT = 0xF003
    KVMPPC_H_VOF_CLIENT = 0xF005
    H_GET_24X7_CATALOG_PAGE = 0xF078
    H_GET_24X7_DATA = 0xF07C
    H_GET_PERF_COUNTER_INFO = 0xF080
    H_SET_PARTITION_TABLE = 0xF800
    H_ENTER_NESTED = 0xF804
    H_TLB_INVALIDATE = 0xF808
    H_COPY_TOFROM_GUEST = 0xF80C

    # Other spellings and earlier names of the same numbers.
    H_DISABLE_AND_GETC = 0x1B0
    """QEMU's spelling of H_DISABLE_AND_GET."""
    H_SCM_MEM_QUERY = 0x3FC
    """Name of an earlier draft for what became H_SCM_UNBIND_ALL."""
    H_SCM_BLOCK_CLEAR = 0x400
    """Name of an earlier draft for what became H_SCM_HEALTH."""


class HcallRc(OpenIntEnum):
    """Status in r3, signed: 0 is success, positive is a state, negative an error; "P*n*" means argument *n* is bad."""

    H_SUCCESS = 0
    H_BUSY = 1
    H_CLOSED = 2
    H_NOT_AVAILABLE = 3
    H_CONSTRAINED = 4
    H_PARTIAL = 5
    H_IN_PROGRESS = 14
    H_PAGE_REGISTERED = 15
    H_PARTIAL_STORE = 16
    H_PENDING = 17
    H_CONTINUE = 18
    H_LONG_BUSY_ORDER_1_MSEC = 9900
    H_LONG_BUSY_ORDER_10_MSEC = 9901
    H_LONG_BUSY_ORDER_100_MSEC = 9902
    H_LONG_BUSY_ORDER_1_SEC = 9903
    H_LONG_BUSY_ORDER_10_SEC = 9904
    H_LONG_BUSY_ORDER_100_SEC = 9905
    H_TOO_HARD = 9999
    H_HARDWARE = -1
    H_FUNCTION = -2
    H_PRIVILEGE = -3
    H_PARAMETER = -4
    H_BAD_MODE = -5
    H_PTEG_FULL = -6
    H_NOT_FOUND = -7
    H_RESERVED_DABR = -8
    H_NO_MEM = -9
    H_AUTHORITY = -10
    H_PERMISSION = -11
    H_DROPPED = -12
    H_SOURCE_PARM = -13
    H_DEST_PARM = -14
    H_REMOTE_PARM = -15
    H_RESOURCE = -16
    H_ADAPTER_PARM = -17
    H_RH_PARM = -18
    H_RCQ_PARM = -19
    H_SCQ_PARM = -20
    H_EQ_PARM = -21
    H_RT_PARM = -22
    H_ST_PARM = -23
    H_SIGT_PARM = -24
    H_TOKEN_PARM = -25
    H_MLENGTH_PARM = -27
    H_MEM_PARM = -28
    H_MEM_ACCESS_PARM = -29
    H_ATTR_PARM = -30
    H_PORT_PARM = -31
    H_MCG_PARM = -32
    H_VL_PARM = -33
    H_TSIZE_PARM = -34
    H_TRACE_PARM = -35
    H_MASK_PARM = -37
    H_MCG_FULL = -38
    H_ALIAS_EXIST = -39
    H_P_COUNTER = -40
    H_TABLE_FULL = -41
    H_ALT_TABLE = -42
    H_MR_CONDITION = -43
    H_NOT_ENOUGH_RESOURCES = -44
    H_R_STATE = -45
    H_RESCINDED = -46
    H_ABORTED = -54
    H_P2 = -55
    H_P3 = -56
    H_P4 = -57
    H_P5 = -58
    H_P6 = -59
    H_P7 = -60
    H_P8 = -61
    H_P9 = -62
    H_NOOP = -63
    H_TOO_BIG = -64
    H_UNSUPPORTED = -67
    H_OVERLAP = -68
    H_INTERRUPT = -69
    H_BAD_DATA = -70
    H_NOT_ACTIVE = -71
    H_SG_LIST = -72
    H_OP_MODE = -73
    H_COP_HW = -74
    H_STATE = -75
    H_RESERVED = -76
    H_IN_USE = -77
    H_INVALID_ELEMENT_ID = -79
    H_INVALID_ELEMENT_SIZE = -80
    H_INVALID_ELEMENT_VALUE = -81
    H_INPUT_BUFFER_NOT_DEFINED = -82
    H_INPUT_BUFFER_TOO_SMALL = -83
    H_OUTPUT_BUFFER_NOT_DEFINED = -84
    H_OUTPUT_BUFFER_TOO_SMALL = -85
    H_PARTITION_PAGE_TABLE_NOT_DEFINED = -86
    H_GUEST_VCPU_STATE_NOT_HV_OWNED = -87
    H_MULTI_THREADS_ACTIVE = -9005
    H_OUTSTANDING_COP_OPS = -9006

    # Other spellings and the ends of ranges.
    H_LONG_BUSY_START_RANGE = 9900
    H_LONG_BUSY_END_RANGE = 9905
    H_TRACE_PARM_LOPAR = -36
    """LoPAR gives "trace parameter" two numbers; Linux knows -35 only."""
    H_UNSUPPORTED_FLAG_START = -256
    H_UNSUPPORTED_FLAG_END = -511
    H_S_PARM = -13
    """LoPAR: S_Parm."""
    H_D_PARM = -14
    """LoPAR: D_Parm."""
    H_R_PARM = -15
    """LoPAR: R_Parm."""
    H_RESCINDEND = -46
    """QEMU's spelling of H_RESCINDED."""


CORE_LIMIT: Final = 0x1000
"""Opcodes below this are the architected core range."""
_LONG_BUSY_MS: Final = {9900: 1, 9901: 10, 9902: 100, 9903: 1000, 9904: 10_000, 9905: 100_000}
_U64: Final = 1 << 64


def is_long_busy(rc: int) -> bool:
    """Whether ``rc`` is one of the six "busy, ask again in about ..." codes."""
    return HcallRc.H_LONG_BUSY_START_RANGE <= rc <= HcallRc.H_LONG_BUSY_END_RANGE


def is_busy(rc: int) -> bool:
    """Whether ``rc`` asks for the same hcall again: H_BUSY (at once) or a long busy (after a while)."""
    return rc == HcallRc.H_BUSY or is_long_busy(rc)


def long_busy_ms(rc: int) -> int:
    """Milliseconds a long-busy code asks to wait: 1 to 100,000; any other code gives 1.  The hint is advisory."""
    return _LONG_BUSY_MS.get(rc, 1)


def is_function_in_progress(rc: int) -> bool:
    """Whether ``rc`` lies in LoPAR's range 0x0100000 to 0x0FFFFFFF, "function in progress"."""
    return 0x0100000 <= rc <= 0x0FFFFFFF


def unsupported_flag_bit(rc: int) -> int | None:
    """Number of the flag bit (0 is the most significant) that an H_UNSUPPORTED_FLAG code refuses, or ``None``."""
    if HcallRc.H_UNSUPPORTED_FLAG_END <= rc <= HcallRc.H_UNSUPPORTED_FLAG_START:
        return HcallRc.H_UNSUPPORTED_FLAG_START - rc
    return None


def rc_to_register(rc: int) -> int:
    """Image of ``rc`` in a 64-bit register, two's complement: H_PARAMETER is 0xFFFFFFFFFFFFFFFC.

    Raises :class:`LocalError` if ``rc`` does not fit into 64 signed bits.
    """
    if not -(1 << 63) <= rc < 1 << 63:
        raise LocalError(f"return code {rc}: expected a signed 64-bit value")
    return int(rc) % _U64


def rc_from_register(register: int) -> int:
    """Signed value of a 64-bit register image.  Raises :class:`LocalError` if it is not an unsigned 64-bit value."""
    if not 0 <= register < _U64:
        raise LocalError(f"register {register:#x}: expected an unsigned 64-bit value")
    return register - _U64 if register >> 63 else register


def rc_name(rc: int) -> str:
    """Text of a return code for people: ``H_PARAMETER (-4)``; unknown ones keep their number."""
    code = HcallRc(rc)
    return f"{code} ({rc})" if code.is_known else f"rc {rc}"
