-- Wireshark plugin for pvnet: hypervisor calls, CRQs, VMC, SCM, vbus, venet, VFIO, in captures and on MQTT.
-- Made by deploy/wireshark/generate.py from the schema and the files in parts/; do not edit.
-- SPDX-License-Identifier: Apache-2.0

local SCHEMA_VERSION = 1
local MAX_DEPTH = 4
local OPCODES = {
  [4]="H_REMOVE", [8]="H_ENTER", [12]="H_READ", [16]="H_CLEAR_MOD", [20]="H_CLEAR_REF", [24]="H_PROTECT",
  [28]="H_GET_TCE", [32]="H_PUT_TCE", [36]="H_SET_SPRG0", [40]="H_SET_DABR", [44]="H_PAGE_INIT", [48]="H_SET_ASR",
  [52]="H_ASR_ON", [56]="H_ASR_OFF", [60]="H_LOGICAL_CI_LOAD", [64]="H_LOGICAL_CI_STORE", [68]="H_LOGICAL_CACHE_LOAD",
  [72]="H_LOGICAL_CACHE_STORE", [76]="H_LOGICAL_ICBI", [80]="H_LOGICAL_DCBF", [84]="H_GET_TERM_CHAR",
  [88]="H_PUT_TERM_CHAR", [92]="H_REAL_TO_LOGICAL", [96]="H_HYPERVISOR_DATA", [100]="H_EOI", [104]="H_CPPR",
  [108]="H_IPI", [112]="H_IPOLL", [116]="H_XIRR", [120]="H_MIGRATE_DMA", [124]="H_PERFMON", [220]="H_REGISTER_VPA",
  [224]="H_CEDE", [228]="H_CONFER", [232]="H_PROD", [236]="H_GET_PPP", [240]="H_SET_PPP", [244]="H_PURR",
  [248]="H_PIC", [252]="H_REG_CRQ", [256]="H_FREE_CRQ", [260]="H_VIO_SIGNAL", [264]="H_SEND_CRQ", [272]="H_COPY_RDMA",
  [276]="H_REGISTER_LOGICAL_LAN", [280]="H_FREE_LOGICAL_LAN", [284]="H_ADD_LOGICAL_LAN_BUFFER",
  [288]="H_SEND_LOGICAL_LAN", [292]="H_BULK_REMOVE", [304]="H_MULTICAST_CTRL", [308]="H_SET_XDABR",
  [312]="H_STUFF_TCE", [316]="H_PUT_TCE_INDIRECT", [332]="H_CHANGE_LOGICAL_LAN_MAC", [336]="H_VTERM_PARTNER_INFO",
  [340]="H_REGISTER_VTERM", [344]="H_FREE_VTERM", [348]="H_RESET_EVENTS", [352]="H_ALLOC_RESOURCE",
  [356]="H_FREE_RESOURCE", [360]="H_MODIFY_QP", [364]="H_QUERY_QP", [368]="H_REREGISTER_PMR", [372]="H_REGISTER_SMR",
  [376]="H_QUERY_MR", [380]="H_QUERY_MW", [384]="H_QUERY_HCA", [388]="H_QUERY_PORT", [392]="H_MODIFY_PORT",
  [396]="H_DEFINE_AQP1", [400]="H_GET_TRACE_BUFFER", [404]="H_DEFINE_AQP0", [408]="H_RESIZE_MR",
  [412]="H_ATTACH_MCQP", [416]="H_DETACH_MCQP", [420]="H_CREATE_RPT", [424]="H_REMOVE_RPT", [428]="H_REGISTER_RPAGES",
  [432]="H_DISABLE_AND_GET", [436]="H_ERROR_DATA", [440]="H_GET_HCA_INFO", [444]="H_GET_PERF_COUNT",
  [448]="H_MANAGE_TRACE", [456]="H_GET_CPU_CHARACTERISTICS", [468]="H_FREE_LOGICAL_LAN_BUFFER",
  [472]="H_POLL_PENDING", [484]="H_QUERY_INT_STATE", [580]="H_ILLAN_ATTRIBUTES", [592]="H_MODIFY_HEA_QP",
  [596]="H_QUERY_HEA_QP", [600]="H_QUERY_HEA", [604]="H_QUERY_HEA_PORT", [608]="H_MODIFY_HEA_PORT",
  [612]="H_REG_BCMC", [616]="H_DEREG_BCMC", [620]="H_REGISTER_HEA_RPAGES", [624]="H_DISABLE_AND_GET_HEA",
  [628]="H_GET_HEA_INFO", [632]="H_ALLOC_HEA_RESOURCE", [644]="H_ADD_CONN", [648]="H_DEL_CONN", [664]="H_JOIN",
  [672]="H_VASI_SIGNAL", [676]="H_VASI_STATE", [680]="H_VIOCTL", [688]="H_ENABLE_CRQ", [696]="H_GET_EM_PARMS",
  [720]="H_SET_MPP", [724]="H_GET_MPP", [732]="H_REG_SUB_CRQ", [736]="H_FREE_SUB_CRQ", [740]="H_SEND_SUB_CRQ",
  [744]="H_SEND_SUB_CRQ_INDIRECT", [748]="H_HOME_NODE_ASSOCIATIVITY", [756]="H_BEST_ENERGY", [764]="H_XIRR_X",
  [768]="H_RANDOM", [772]="H_COP", [788]="H_GET_MPP_X", [796]="H_SET_MODE", [808]="H_BLOCK_REMOVE",
  [856]="H_CLEAR_HPT", [864]="H_REQUEST_VMC", [876]="H_RESIZE_HPT_PREPARE", [880]="H_RESIZE_HPT_COMMIT",
  [892]="H_REGISTER_PROC_TBL", [896]="H_SIGNAL_SYS_RESET", [904]="H_ALLOCATE_VAS_WINDOW", [908]="H_MODIFY_VAS_WINDOW",
  [912]="H_DEALLOCATE_VAS_WINDOW", [916]="H_QUERY_VAS_WINDOW", [920]="H_QUERY_VAS_CAPABILITIES",
  [924]="H_QUERY_NX_CAPABILITIES", [928]="H_GET_NX_FAULT", [936]="H_INT_GET_SOURCE_INFO",
  [940]="H_INT_SET_SOURCE_CONFIG", [944]="H_INT_GET_SOURCE_CONFIG", [948]="H_INT_GET_QUEUE_INFO",
  [952]="H_INT_SET_QUEUE_CONFIG", [956]="H_INT_GET_QUEUE_CONFIG", [960]="H_INT_SET_OS_REPORTING_LINE",
  [964]="H_INT_GET_OS_REPORTING_LINE", [968]="H_INT_ESB", [972]="H_INT_SYNC", [976]="H_INT_RESET",
  [996]="H_SCM_READ_METADATA", [1000]="H_SCM_WRITE_METADATA", [1004]="H_SCM_BIND_MEM", [1008]="H_SCM_UNBIND_MEM",
  [1012]="H_SCM_QUERY_BLOCK_MEM_BINDING", [1016]="H_SCM_QUERY_LOGICAL_MEM_BINDING", [1020]="H_SCM_UNBIND_ALL",
  [1024]="H_SCM_HEALTH", [1048]="H_SCM_PERFORMANCE_STATS", [1052]="H_PKS_GET_CONFIG", [1056]="H_PKS_SET_PASSWORD",
  [1060]="H_PKS_GEN_PASSWORD", [1068]="H_PKS_WRITE_OBJECT", [1072]="H_PKS_GEN_KEY", [1076]="H_PKS_READ_OBJECT",
  [1080]="H_PKS_REMOVE_OBJECT", [1084]="H_PKS_CONFIRM_OBJECT_FLUSHED", [1096]="H_RPT_INVALIDATE",
  [1100]="H_SCM_FLUSH", [1104]="H_GET_ENERGY_SCALE_INFO", [1108]="H_PKS_SIGNED_UPDATE", [1112]="H_HTM",
  [1116]="H_WATCHDOG", [1120]="H_GUEST_GET_CAPABILITIES", [1124]="H_GUEST_SET_CAPABILITIES", [1136]="H_GUEST_CREATE",
  [1140]="H_GUEST_CREATE_VCPU", [1144]="H_GUEST_GET_STATE", [1148]="H_GUEST_SET_STATE", [1152]="H_GUEST_RUN_VCPU",
  [1156]="H_GUEST_COPY_MEMORY", [1160]="H_GUEST_DELETE", [1168]="H_PKS_WRAP_OBJECT", [1172]="H_PKS_UNWRAP_OBJECT",
  [61184]="H_SVM_PAGE_IN", [61188]="H_SVM_PAGE_OUT", [61192]="H_SVM_INIT_START", [61196]="H_SVM_INIT_DONE",
  [61200]="SVM_H_TPM_COMM", [61204]="H_SVM_INIT_ABORT", [61440]="H_RTAS", [61441]="H_LOGICAL_MEMOP", [61442]="H_CAS",
  [61443]="H_UPDATE_DT", [61445]="KVMPPC_H_VOF_CLIENT", [61560]="H_GET_24X7_CATALOG_PAGE", [61564]="H_GET_24X7_DATA",
  [61568]="H_GET_PERF_COUNTER_INFO", [63488]="H_SET_PARTITION_TABLE", [63492]="H_ENTER_NESTED",
  [63496]="H_TLB_INVALIDATE", [63500]="H_COPY_TOFROM_GUEST",
}
local RCS = {
  [-9006]="H_OUTSTANDING_COP_OPS", [-9005]="H_MULTI_THREADS_ACTIVE", [-511]="H_UNSUPPORTED_FLAG_END",
  [-256]="H_UNSUPPORTED_FLAG_START", [-87]="H_GUEST_VCPU_STATE_NOT_HV_OWNED",
  [-86]="H_PARTITION_PAGE_TABLE_NOT_DEFINED", [-85]="H_OUTPUT_BUFFER_TOO_SMALL", [-84]="H_OUTPUT_BUFFER_NOT_DEFINED",
  [-83]="H_INPUT_BUFFER_TOO_SMALL", [-82]="H_INPUT_BUFFER_NOT_DEFINED", [-81]="H_INVALID_ELEMENT_VALUE",
  [-80]="H_INVALID_ELEMENT_SIZE", [-79]="H_INVALID_ELEMENT_ID", [-77]="H_IN_USE", [-76]="H_RESERVED", [-75]="H_STATE",
  [-74]="H_COP_HW", [-73]="H_OP_MODE", [-72]="H_SG_LIST", [-71]="H_NOT_ACTIVE", [-70]="H_BAD_DATA",
  [-69]="H_INTERRUPT", [-68]="H_OVERLAP", [-67]="H_UNSUPPORTED", [-64]="H_TOO_BIG", [-63]="H_NOOP", [-62]="H_P9",
  [-61]="H_P8", [-60]="H_P7", [-59]="H_P6", [-58]="H_P5", [-57]="H_P4", [-56]="H_P3", [-55]="H_P2", [-54]="H_ABORTED",
  [-46]="H_RESCINDED", [-45]="H_R_STATE", [-44]="H_NOT_ENOUGH_RESOURCES", [-43]="H_MR_CONDITION", [-42]="H_ALT_TABLE",
  [-41]="H_TABLE_FULL", [-40]="H_P_COUNTER", [-39]="H_ALIAS_EXIST", [-38]="H_MCG_FULL", [-37]="H_MASK_PARM",
  [-36]="H_TRACE_PARM_LOPAR", [-35]="H_TRACE_PARM", [-34]="H_TSIZE_PARM", [-33]="H_VL_PARM", [-32]="H_MCG_PARM",
  [-31]="H_PORT_PARM", [-30]="H_ATTR_PARM", [-29]="H_MEM_ACCESS_PARM", [-28]="H_MEM_PARM", [-27]="H_MLENGTH_PARM",
  [-25]="H_TOKEN_PARM", [-24]="H_SIGT_PARM", [-23]="H_ST_PARM", [-22]="H_RT_PARM", [-21]="H_EQ_PARM",
  [-20]="H_SCQ_PARM", [-19]="H_RCQ_PARM", [-18]="H_RH_PARM", [-17]="H_ADAPTER_PARM", [-16]="H_RESOURCE",
  [-15]="H_REMOTE_PARM", [-14]="H_DEST_PARM", [-13]="H_SOURCE_PARM", [-12]="H_DROPPED", [-11]="H_PERMISSION",
  [-10]="H_AUTHORITY", [-9]="H_NO_MEM", [-8]="H_RESERVED_DABR", [-7]="H_NOT_FOUND", [-6]="H_PTEG_FULL",
  [-5]="H_BAD_MODE", [-4]="H_PARAMETER", [-3]="H_PRIVILEGE", [-2]="H_FUNCTION", [-1]="H_HARDWARE", [0]="H_SUCCESS",
  [1]="H_BUSY", [2]="H_CLOSED", [3]="H_NOT_AVAILABLE", [4]="H_CONSTRAINED", [5]="H_PARTIAL", [14]="H_IN_PROGRESS",
  [15]="H_PAGE_REGISTERED", [16]="H_PARTIAL_STORE", [17]="H_PENDING", [18]="H_CONTINUE",
  [9900]="H_LONG_BUSY_ORDER_1_MSEC", [9901]="H_LONG_BUSY_ORDER_10_MSEC", [9902]="H_LONG_BUSY_ORDER_100_MSEC",
  [9903]="H_LONG_BUSY_ORDER_1_SEC", [9904]="H_LONG_BUSY_ORDER_10_SEC", [9905]="H_LONG_BUSY_ORDER_100_SEC",
  [9999]="H_TOO_HARD",
}
local ERRNO = {
  [1]="EPERM", [2]="ENOENT", [4]="EINTR", [5]="EIO", [6]="ENXIO", [7]="E2BIG", [9]="EBADF", [11]="EAGAIN",
  [12]="ENOMEM", [13]="EACCES", [14]="EFAULT", [16]="EBUSY", [17]="EEXIST", [19]="ENODEV", [20]="ENOTDIR",
  [21]="EISDIR", [22]="EINVAL", [24]="EMFILE", [25]="ENOTTY", [27]="EFBIG", [28]="ENOSPC", [29]="ESPIPE",
  [30]="EROFS", [32]="EPIPE", [34]="ERANGE", [38]="ENOSYS", [61]="ENODATA", [75]="EOVERFLOW", [77]="EBADFD",
  [87]="EUSERS", [95]="EOPNOTSUPP", [105]="ENOBUFS", [107]="ENOTCONN", [110]="ETIMEDOUT", [114]="EALREADY",
}
local VALUES = {
  {
    [1]="PARTNER_FAILED", [2]="PARTNER_DEREGISTERED", [4]="PARTNER_TERMINATED", [6]="PARTNER_SUSPENDED",
    [7]="DEVICE_DISABLED", [8]="DEVICE_FAILOVER", [9]="PREPARE_SUSPEND", [10]="RESUME",
  },
  {
    [0]="EMPTY", [128]="COMMAND", [192]="INIT", [255]="TRANSPORT_EVENT",
  },
  {
    [1]="INIT", [2]="INIT_COMPLETE",
  },
  {
    [1074056194]="REQUESTVMC", [1074318336]="SETHMCID", [1074580481]="QUERY", [2147798016]="SETHMCID",
    [2147798018]="REQUESTVMC", [2148060160]="SETHMCID", [2148322305]="QUERY",
  },
  {
    [0]="UNSPECIFIED", [1]="OPEN", [2]="IOCTL", [3]="READ", [4]="WRITE", [5]="POLL", [6]="CLOSE", [7]="INTERRUPT",
  },
  {
    [2048]="IPv4", [2054]="ARP", [33024]="VLAN", [34525]="IPv6", [35020]="LLDP",
  },
  {
    [4]="H_REMOVE", [8]="H_ENTER", [12]="H_READ", [16]="H_CLEAR_MOD", [20]="H_CLEAR_REF", [24]="H_PROTECT",
    [28]="H_GET_TCE", [32]="H_PUT_TCE", [36]="H_SET_SPRG0", [40]="H_SET_DABR", [44]="H_PAGE_INIT", [48]="H_SET_ASR",
    [52]="H_ASR_ON", [56]="H_ASR_OFF", [60]="H_LOGICAL_CI_LOAD", [64]="H_LOGICAL_CI_STORE", [68]="H_LOGICAL_CACHE_LOAD",
    [72]="H_LOGICAL_CACHE_STORE", [76]="H_LOGICAL_ICBI", [80]="H_LOGICAL_DCBF", [84]="H_GET_TERM_CHAR",
    [88]="H_PUT_TERM_CHAR", [92]="H_REAL_TO_LOGICAL", [96]="H_HYPERVISOR_DATA", [100]="H_EOI", [104]="H_CPPR",
    [108]="H_IPI", [112]="H_IPOLL", [116]="H_XIRR", [120]="H_MIGRATE_DMA", [124]="H_PERFMON", [220]="H_REGISTER_VPA",
    [224]="H_CEDE", [228]="H_CONFER", [232]="H_PROD", [236]="H_GET_PPP", [240]="H_SET_PPP", [244]="H_PURR",
    [248]="H_PIC", [252]="H_REG_CRQ", [256]="H_FREE_CRQ", [260]="H_VIO_SIGNAL", [264]="H_SEND_CRQ", [272]="H_COPY_RDMA",
    [276]="H_REGISTER_LOGICAL_LAN", [280]="H_FREE_LOGICAL_LAN", [284]="H_ADD_LOGICAL_LAN_BUFFER",
    [288]="H_SEND_LOGICAL_LAN", [292]="H_BULK_REMOVE", [304]="H_MULTICAST_CTRL", [308]="H_SET_XDABR",
    [312]="H_STUFF_TCE", [316]="H_PUT_TCE_INDIRECT", [332]="H_CHANGE_LOGICAL_LAN_MAC", [336]="H_VTERM_PARTNER_INFO",
    [340]="H_REGISTER_VTERM", [344]="H_FREE_VTERM", [348]="H_RESET_EVENTS", [352]="H_ALLOC_RESOURCE",
    [356]="H_FREE_RESOURCE", [360]="H_MODIFY_QP", [364]="H_QUERY_QP", [368]="H_REREGISTER_PMR", [372]="H_REGISTER_SMR",
    [376]="H_QUERY_MR", [380]="H_QUERY_MW", [384]="H_QUERY_HCA", [388]="H_QUERY_PORT", [392]="H_MODIFY_PORT",
    [396]="H_DEFINE_AQP1", [400]="H_GET_TRACE_BUFFER", [404]="H_DEFINE_AQP0", [408]="H_RESIZE_MR",
    [412]="H_ATTACH_MCQP", [416]="H_DETACH_MCQP", [420]="H_CREATE_RPT", [424]="H_REMOVE_RPT", [428]="H_REGISTER_RPAGES",
    [432]="H_DISABLE_AND_GET", [436]="H_ERROR_DATA", [440]="H_GET_HCA_INFO", [444]="H_GET_PERF_COUNT",
    [448]="H_MANAGE_TRACE", [456]="H_GET_CPU_CHARACTERISTICS", [468]="H_FREE_LOGICAL_LAN_BUFFER",
    [472]="H_POLL_PENDING", [484]="H_QUERY_INT_STATE", [580]="H_ILLAN_ATTRIBUTES", [592]="H_MODIFY_HEA_QP",
    [596]="H_QUERY_HEA_QP", [600]="H_QUERY_HEA", [604]="H_QUERY_HEA_PORT", [608]="H_MODIFY_HEA_PORT",
    [612]="H_REG_BCMC", [616]="H_DEREG_BCMC", [620]="H_REGISTER_HEA_RPAGES", [624]="H_DISABLE_AND_GET_HEA",
    [628]="H_GET_HEA_INFO", [632]="H_ALLOC_HEA_RESOURCE", [644]="H_ADD_CONN", [648]="H_DEL_CONN", [664]="H_JOIN",
    [672]="H_VASI_SIGNAL", [676]="H_VASI_STATE", [680]="H_VIOCTL", [688]="H_ENABLE_CRQ", [696]="H_GET_EM_PARMS",
    [720]="H_SET_MPP", [724]="H_GET_MPP", [732]="H_REG_SUB_CRQ", [736]="H_FREE_SUB_CRQ", [740]="H_SEND_SUB_CRQ",
    [744]="H_SEND_SUB_CRQ_INDIRECT", [748]="H_HOME_NODE_ASSOCIATIVITY", [756]="H_BEST_ENERGY", [764]="H_XIRR_X",
    [768]="H_RANDOM", [772]="H_COP", [788]="H_GET_MPP_X", [796]="H_SET_MODE", [808]="H_BLOCK_REMOVE",
    [856]="H_CLEAR_HPT", [864]="H_REQUEST_VMC", [876]="H_RESIZE_HPT_PREPARE", [880]="H_RESIZE_HPT_COMMIT",
    [892]="H_REGISTER_PROC_TBL", [896]="H_SIGNAL_SYS_RESET", [904]="H_ALLOCATE_VAS_WINDOW", [908]="H_MODIFY_VAS_WINDOW",
    [912]="H_DEALLOCATE_VAS_WINDOW", [916]="H_QUERY_VAS_WINDOW", [920]="H_QUERY_VAS_CAPABILITIES",
    [924]="H_QUERY_NX_CAPABILITIES", [928]="H_GET_NX_FAULT", [936]="H_INT_GET_SOURCE_INFO",
    [940]="H_INT_SET_SOURCE_CONFIG", [944]="H_INT_GET_SOURCE_CONFIG", [948]="H_INT_GET_QUEUE_INFO",
    [952]="H_INT_SET_QUEUE_CONFIG", [956]="H_INT_GET_QUEUE_CONFIG", [960]="H_INT_SET_OS_REPORTING_LINE",
    [964]="H_INT_GET_OS_REPORTING_LINE", [968]="H_INT_ESB", [972]="H_INT_SYNC", [976]="H_INT_RESET",
    [996]="H_SCM_READ_METADATA", [1000]="H_SCM_WRITE_METADATA", [1004]="H_SCM_BIND_MEM", [1008]="H_SCM_UNBIND_MEM",
    [1012]="H_SCM_QUERY_BLOCK_MEM_BINDING", [1016]="H_SCM_QUERY_LOGICAL_MEM_BINDING", [1020]="H_SCM_UNBIND_ALL",
    [1024]="H_SCM_HEALTH", [1048]="H_SCM_PERFORMANCE_STATS", [1052]="H_PKS_GET_CONFIG", [1056]="H_PKS_SET_PASSWORD",
    [1060]="H_PKS_GEN_PASSWORD", [1068]="H_PKS_WRITE_OBJECT", [1072]="H_PKS_GEN_KEY", [1076]="H_PKS_READ_OBJECT",
    [1080]="H_PKS_REMOVE_OBJECT", [1084]="H_PKS_CONFIRM_OBJECT_FLUSHED", [1096]="H_RPT_INVALIDATE",
    [1100]="H_SCM_FLUSH", [1104]="H_GET_ENERGY_SCALE_INFO", [1108]="H_PKS_SIGNED_UPDATE", [1112]="H_HTM",
    [1116]="H_WATCHDOG", [1120]="H_GUEST_GET_CAPABILITIES", [1124]="H_GUEST_SET_CAPABILITIES", [1136]="H_GUEST_CREATE",
    [1140]="H_GUEST_CREATE_VCPU", [1144]="H_GUEST_GET_STATE", [1148]="H_GUEST_SET_STATE", [1152]="H_GUEST_RUN_VCPU",
    [1156]="H_GUEST_COPY_MEMORY", [1160]="H_GUEST_DELETE", [1168]="H_PKS_WRAP_OBJECT", [1172]="H_PKS_UNWRAP_OBJECT",
    [61184]="H_SVM_PAGE_IN", [61188]="H_SVM_PAGE_OUT", [61192]="H_SVM_INIT_START", [61196]="H_SVM_INIT_DONE",
    [61200]="SVM_H_TPM_COMM", [61204]="H_SVM_INIT_ABORT", [61440]="H_RTAS", [61441]="H_LOGICAL_MEMOP", [61442]="H_CAS",
    [61443]="H_UPDATE_DT", [61445]="KVMPPC_H_VOF_CLIENT", [61560]="H_GET_24X7_CATALOG_PAGE", [61564]="H_GET_24X7_DATA",
    [61568]="H_GET_PERF_COUNTER_INFO", [63488]="H_SET_PARTITION_TABLE", [63492]="H_ENTER_NESTED",
    [63496]="H_TLB_INVALIDATE", [63500]="H_COPY_TOFROM_GUEST",
  },
  {
    [-9006]="H_OUTSTANDING_COP_OPS", [-9005]="H_MULTI_THREADS_ACTIVE", [-511]="H_UNSUPPORTED_FLAG_END",
    [-256]="H_UNSUPPORTED_FLAG_START", [-87]="H_GUEST_VCPU_STATE_NOT_HV_OWNED",
    [-86]="H_PARTITION_PAGE_TABLE_NOT_DEFINED", [-85]="H_OUTPUT_BUFFER_TOO_SMALL", [-84]="H_OUTPUT_BUFFER_NOT_DEFINED",
    [-83]="H_INPUT_BUFFER_TOO_SMALL", [-82]="H_INPUT_BUFFER_NOT_DEFINED", [-81]="H_INVALID_ELEMENT_VALUE",
    [-80]="H_INVALID_ELEMENT_SIZE", [-79]="H_INVALID_ELEMENT_ID", [-77]="H_IN_USE", [-76]="H_RESERVED", [-75]="H_STATE",
    [-74]="H_COP_HW", [-73]="H_OP_MODE", [-72]="H_SG_LIST", [-71]="H_NOT_ACTIVE", [-70]="H_BAD_DATA",
    [-69]="H_INTERRUPT", [-68]="H_OVERLAP", [-67]="H_UNSUPPORTED", [-64]="H_TOO_BIG", [-63]="H_NOOP", [-62]="H_P9",
    [-61]="H_P8", [-60]="H_P7", [-59]="H_P6", [-58]="H_P5", [-57]="H_P4", [-56]="H_P3", [-55]="H_P2", [-54]="H_ABORTED",
    [-46]="H_RESCINDED", [-45]="H_R_STATE", [-44]="H_NOT_ENOUGH_RESOURCES", [-43]="H_MR_CONDITION", [-42]="H_ALT_TABLE",
    [-41]="H_TABLE_FULL", [-40]="H_P_COUNTER", [-39]="H_ALIAS_EXIST", [-38]="H_MCG_FULL", [-37]="H_MASK_PARM",
    [-36]="H_TRACE_PARM_LOPAR", [-35]="H_TRACE_PARM", [-34]="H_TSIZE_PARM", [-33]="H_VL_PARM", [-32]="H_MCG_PARM",
    [-31]="H_PORT_PARM", [-30]="H_ATTR_PARM", [-29]="H_MEM_ACCESS_PARM", [-28]="H_MEM_PARM", [-27]="H_MLENGTH_PARM",
    [-25]="H_TOKEN_PARM", [-24]="H_SIGT_PARM", [-23]="H_ST_PARM", [-22]="H_RT_PARM", [-21]="H_EQ_PARM",
    [-20]="H_SCQ_PARM", [-19]="H_RCQ_PARM", [-18]="H_RH_PARM", [-17]="H_ADAPTER_PARM", [-16]="H_RESOURCE",
    [-15]="H_REMOTE_PARM", [-14]="H_DEST_PARM", [-13]="H_SOURCE_PARM", [-12]="H_DROPPED", [-11]="H_PERMISSION",
    [-10]="H_AUTHORITY", [-9]="H_NO_MEM", [-8]="H_RESERVED_DABR", [-7]="H_NOT_FOUND", [-6]="H_PTEG_FULL",
    [-5]="H_BAD_MODE", [-4]="H_PARAMETER", [-3]="H_PRIVILEGE", [-2]="H_FUNCTION", [-1]="H_HARDWARE", [0]="H_SUCCESS",
    [1]="H_BUSY", [2]="H_CLOSED", [3]="H_NOT_AVAILABLE", [4]="H_CONSTRAINED", [5]="H_PARTIAL", [14]="H_IN_PROGRESS",
    [15]="H_PAGE_REGISTERED", [16]="H_PARTIAL_STORE", [17]="H_PENDING", [18]="H_CONTINUE",
    [9900]="H_LONG_BUSY_ORDER_1_MSEC", [9901]="H_LONG_BUSY_ORDER_10_MSEC", [9902]="H_LONG_BUSY_ORDER_100_MSEC",
    [9903]="H_LONG_BUSY_ORDER_1_SEC", [9904]="H_LONG_BUSY_ORDER_10_SEC", [9905]="H_LONG_BUSY_ORDER_100_SEC",
    [9999]="H_TOO_HARD",
  },
  {
    [1]="ICMP", [6]="TCP", [17]="UDP", [58]="ICMPv6",
  },
  {
    [0]="UNSPECIFIED", [1]="BIRTH", [2]="READY", [3]="LOST", [4]="DEATH",
  },
  {
    [0]="UNSPECIFIED", [1]="BEGIN", [2]="DATA", [3]="COMMIT", [4]="ABORT",
  },
  {
    [1]="RDMA", [2]="RING",
  },
  {
    [0]="UNSPECIFIED", [1]="ADDED", [2]="MODIFIED", [3]="REMOVED",
  },
  {
    [0]="UNSPECIFIED", [1]="SYSTEM", [2]="PARTITION", [3]="ADAPTER", [4]="SWITCH",
  },
  {
    [0]="OFF", [1]="STARTING", [2]="RUNNING", [3]="STOPPING", [4]="FAILED",
  },
  {
    [0]="UNSPECIFIED", [1]="SHOW", [2]="PARENT_REGISTER", [3]="PARENT_UNREGISTER", [4]="CREATE", [5]="REMOVE",
    [6]="START", [7]="SHUTDOWN", [8]="SET", [9]="TREE_READ", [10]="TREE_WRITE", [11]="ATTACH", [12]="DETACH",
    [13]="MIGRATE", [14]="PEEK", [15]="ASSIGN", [16]="DRIVERS", [17]="EVENTS",
  },
  {
    [0]="NORMAL", [1]="GUEST", [2]="IMMEDIATE",
  },
  {
    [0]="UNSPECIFIED", [1]="HEALTH", [2]="HEALTH_OWN", [3]="RETURN_CODE", [4]="STORAGE_READ", [5]="STORAGE_WRITE",
    [6]="STORAGE_FLUSH",
  },
  {
    [0]="OK", [1]="NOT_FOUND", [2]="CONFLICT", [3]="FAILED", [4]="NOT_SUPPORTED", [5]="MALFORMED", [6]="STALE",
    [7]="INVALID",
  },
  {
    [0]="UNSPECIFIED", [1]="SHOW", [2]="PORT_ADD", [3]="PORT_REMOVE",
  },
  {
    [0]="UNSPECIFIED", [1]="SHOW", [2]="BUS_CREATE", [3]="BUS_REMOVE", [4]="DEVICE_CREATE", [5]="DEVICE_REMOVE",
    [6]="DEVICE_ATTACH", [7]="DEVICE_DETACH", [8]="DEVICE_SET", [9]="JOIN", [10]="LEAVE", [11]="CLASSES",
  },
  {
    [1]="HELLO", [2]="PACKET",
  },
  {
    [64]="RESPONSE",
  },
  {
    [1]="OPEN", [2]="CLOSE", [259]="ECHO",
  },
  {
    [0]="GOOD", [32769]="INVALID_OPCODE", [32770]="RESERVED_2", [32771]="INVALID_DATA", [32772]="RESERVED_4",
    [32773]="RESERVED_5", [32774]="GENERIC", [32775]="CANCELLED", [32776]="RESERVED_8", [32777]="RESERVED_9",
    [32784]="RESERVED_10", [32800]="BUFFER_NOT_AVAILABLE", [32801]="INVALID_HMC_INDEX", [32802]="INVALID_SIZE",
    [32803]="INVALID_TARGET", [32804]="INVALID_CATEGORY", [32805]="HMC_DEAD", [32806]="PATH_CLOSED",
    [32807]="BIND_EVENT_FAILED", [32808]="INVALID_STATE", [32809]="SESSION_MISMATCH", [32810]="INVALID_HMC_INSTANCE",
    [32811]="HMC_ALREADY_OPEN", [32812]="INVALID_BUFFER_ID", [32813]="INVALID_RESPONSE", [32814]="INVALID_SYNC_REQUEST",
  },
  {
    [32768]="ROUTER", [32769]="LPAR_CONFIG", [32770]="LPAR_DLPAR", [32771]="VSP", [32772]="CUOD",
    [32773]="CONCURRENT_MAINTENANCE", [32774]="CATEGORY_6", [32775]="CATEGORY_7",
  },
  {
    [0]="DEVOPEN", [1]="DEVCLOSE", [2]="DEVCALL", [3]="DEVSHM",
  },
  {
    [1]="IOQ_2026",
  },
  {
    [0]="DEVADD", [1]="DEVDROP", [2]="SHMSIGNAL", [3]="SHMCLOSE",
  },
  {
    [0]="EVENTQ", [4]="FASTCALL", [8]="SHMSIGNAL",
  },
  {
    [4294967295]="none",
  },
  {
    [0]="NEGOTIATE", [1]="QREG", [2]="SLOWCALL", [3]="FASTCALL_ADD", [4]="FASTCALL_DROP",
  },
  {
    [1]="NEEDS_CSUM", [2]="GSO", [4]="ECN",
  },
  {
    [0]="LINKUP", [1]="LINKDOWN", [2]="MACQUERY", [3]="NEGCAP", [4]="FLUSHRX", [5]="PMTDQUERY", [6]="EVQQUERY",
    [7]="L4ROQUERY",
  },
  {
    [0]="SG", [1]="EVENTQ", [2]="L4RO",
  },
  {
    [0]="TCPV4", [1]="UDP", [2]="TCPV6",
  },
  {
    [1]="VERSION", [2]="DMA_MAP", [3]="DMA_UNMAP", [4]="DEVICE_GET_INFO", [5]="DEVICE_GET_REGION_INFO",
    [6]="DEVICE_GET_REGION_IO_FDS", [7]="DEVICE_GET_IRQ_INFO", [8]="DEVICE_SET_IRQS", [9]="REGION_READ",
    [10]="REGION_WRITE", [11]="DMA_READ", [12]="DMA_WRITE", [13]="DEVICE_RESET", [15]="REGION_WRITE_MULTI",
    [16]="DEVICE_FEATURE", [17]="MIG_DATA_READ", [18]="MIG_DATA_WRITE",
  },
  {
    [1]="RESET", [2]="PCI", [4]="PLATFORM", [8]="AMBA", [16]="CCW", [32]="AP", [64]="FSL_MC", [128]="CAPS",
  },
  {
    [1]="READ", [2]="WRITE", [4]="MMAP", [8]="FILE_IO",
  },
  {
    [1]="MIGRATION", [2]="MIG_DEVICE_STATE", [3]="LOW_POWER_ENTRY", [4]="LOW_POWER_ENTRY_WITH_WAKEUP",
    [5]="LOW_POWER_EXIT", [6]="DMA_LOGGING_START", [7]="DMA_LOGGING_STOP", [8]="DMA_LOGGING_REPORT",
    [9]="MIG_DATA_SIZE",
  },
  {
    [65536]="GET", [131072]="SET", [262144]="PROBE",
  },
  {
    [1]="REPLY", [16]="NO_REPLY", [32]="ERROR",
  },
  {
    [1]="EVENTFD", [2]="MASKABLE", [4]="AUTOMASKED", [8]="NORESIZE",
  },
  {
    [1]="NONE", [2]="BOOL", [4]="EVENTFD", [8]="MASK", [16]="UNMASK", [32]="TRIGGER",
  },
  {
    [0]="ERROR", [1]="STOP", [2]="RUNNING", [3]="STOP_COPY", [4]="RESUMING", [5]="RUNNING_P2P", [6]="PRE_COPY",
    [7]="PRE_COPY_P2P",
  },
  {
    [1]="READ", [2]="WRITE", [4]="MMAP", [8]="CAPS",
  },
  {
    [1]="GET_DIRTY_BITMAP", [2]="ALL",
  },
  {
    [65535]="none",
  },
  {
    [0]="ALPHA", [1]="HYPERVISOR",
  },
  {
    [1]="CAPABILITIES", [2]="OPEN", [3]="CLOSE", [4]="ADD_BUFFER", [5]="REMOVE_BUFFER", [6]="SIGNAL",
    [129]="CAPABILITIES_RESPONSE", [130]="OPEN_RESPONSE", [131]="CLOSE_RESPONSE", [132]="ADD_BUFFER_RESPONSE",
    [133]="REMOVE_BUFFER_RESPONSE",
  },
}
local FIELDS = {
  {"app.act", "string", false, false, nil,
   "what an application did"},
  {"app.data", "bytes", false, false, nil,
   "their beginning"},
  {"app.hmc_index", "uint8", false, false, nil,
   "number of its connection"},
  {"app.length", "uint32", false, false, nil,
   "bytes of its message"},
  {"crq.consumed", "uint64", false, false, nil,
   "crq.consumed"},
  {"crq.element", "bytes", false, false, nil,
   "the 16 bytes"},
  {"crq.event", "uint8", true, false, VALUES[1],
   "byte 1 of a transport event"},
  {"crq.format", "uint8", true, false, nil,
   "byte 1: type or format"},
  {"crq.header", "uint8", true, false, VALUES[2],
   "byte 0"},
  {"crq.init", "uint8", false, false, VALUES[3],
   "byte 1 of an initialisation"},
  {"crq.irq", "bool", false, false, nil,
   "crq.irq"},
  {"crq.registration", "uint32", false, false, nil,
   "crq.registration"},
  {"crq.slot", "uint32", false, false, nil,
   "crq.slot"},
  {"crq.unit", "uint32", true, false, nil,
   "unit address of the adapter"},
  {"device.command", "uint32", true, false, VALUES[4],
   "device.command"},
  {"device.count", "uint32", false, false, nil,
   "device.count"},
  {"device.data", "bytes", false, false, nil,
   "device.data"},
  {"device.handle", "uint32", false, false, nil,
   "device.handle"},
  {"device.interrupts", "uint64", false, false, nil,
   "device.interrupts"},
  {"device.nonblock", "bool", false, false, nil,
   "device.nonblock"},
  {"device.offset", "uint64", false, false, nil,
   "device.offset"},
  {"device.operation", "uint32", false, false, VALUES[5],
   "device.operation"},
  {"device.path", "string", false, false, nil,
   "device.path"},
  {"device.result", "int32", false, false, nil,
   "device.result"},
  {"envelope.ack", "uint64", false, false, nil,
   "envelope.ack"},
  {"envelope.ack_stream", "uint32", false, false, nil,
   "envelope.ack_stream"},
  {"envelope.body", "string", false, false, nil,
   "kind of body"},
  {"envelope.correlation", "uint64", false, false, nil,
   "envelope.correlation"},
  {"envelope.deadline_ms", "uint32", false, false, nil,
   "envelope.deadline_ms"},
  {"envelope.destination", "string", false, false, nil,
   "envelope.destination"},
  {"envelope.destination_incarnation", "uint64", true, false, nil,
   "envelope.destination_incarnation"},
  {"envelope.lab", "string", false, false, nil,
   "envelope.lab"},
  {"envelope.monotonic_ns", "uint64", false, false, nil,
   "envelope.monotonic_ns"},
  {"envelope.schema", "uint32", false, false, nil,
   "envelope.schema"},
  {"envelope.seq", "uint64", false, false, nil,
   "envelope.seq"},
  {"envelope.source", "string", false, false, nil,
   "envelope.source"},
  {"envelope.source_incarnation", "uint64", true, false, nil,
   "envelope.source_incarnation"},
  {"envelope.stream", "uint32", false, false, nil,
   "envelope.stream"},
  {"envelope.trace", "uint64", true, false, nil,
   "envelope.trace"},
  {"envelope.wall_ns", "uint64", false, false, nil,
   "envelope.wall_ns"},
  {"ethernet.destination", "string", false, false, nil,
   "MAC address"},
  {"ethernet.length", "uint32", false, false, nil,
   "bytes of the frame"},
  {"ethernet.source", "string", false, false, nil,
   "MAC address"},
  {"ethernet.type", "uint16", true, false, VALUES[6],
   "what it carries"},
  {"event.name", "string", false, false, nil,
   "event of a log that is no hcall"},
  {"event.value", "string", false, false, nil,
   "name=value"},
  {"hcall.args", "uint64", true, false, nil,
   "hcall.args"},
  {"hcall.data", "bytes", false, false, nil,
   "first bytes that H_COPY_RDMA moved"},
  {"hcall.direction", "string", false, false, nil,
   "which way H_COPY_RDMA moved them"},
  {"hcall.memory", "bytes", false, false, nil,
   "hcall.memory"},
  {"hcall.note", "string", false, false, nil,
   "what the recording says of it"},
  {"hcall.opcode", "uint64", true, false, VALUES[7],
   "hcall.opcode"},
  {"hcall.outs", "uint64", true, false, nil,
   "hcall.outs"},
  {"hcall.problem_state", "bool", false, false, nil,
   "hcall.problem_state"},
  {"hcall.rc", "int64", false, false, VALUES[8],
   "hcall.rc"},
  {"hcall.took_ns", "uint64", false, false, nil,
   "nanoseconds from call to return, where the log has both"},
  {"ip.destination", "string", false, false, nil,
   "address"},
  {"ip.protocol", "uint8", false, false, VALUES[9],
   "what it carries"},
  {"ip.source", "string", false, false, nil,
   "address"},
  {"irq.raised", "bool", false, false, nil,
   "whether an interrupt was pending"},
  {"irq.unit", "uint32", true, false, nil,
   "irq.unit"},
  {"lifecycle.connection", "uint32", false, false, nil,
   "lifecycle.connection"},
  {"lifecycle.direct.host", "string", false, false, nil,
   "lifecycle.direct.host"},
  {"lifecycle.direct.path", "string", false, false, nil,
   "lifecycle.direct.path"},
  {"lifecycle.host", "string", false, false, nil,
   "lifecycle.host"},
  {"lifecycle.phase", "uint32", false, false, VALUES[10],
   "lifecycle.phase"},
  {"lifecycle.pid", "uint32", false, false, nil,
   "lifecycle.pid"},
  {"lifecycle.role", "string", false, false, nil,
   "lifecycle.role"},
  {"lifecycle.text", "string", false, false, nil,
   "lifecycle.text"},
  {"lifecycle.version", "string", false, false, nil,
   "lifecycle.version"},
  {"lost.count", "uint64", false, false, nil,
   "events that a tracer lost"},
  {"mark.text", "string", false, false, nil,
   "what somebody wrote into the recording"},
  {"mdev.attributes", "string", false, false, nil,
   "name=value"},
  {"mdev.data", "bytes", false, false, nil,
   "mdev.data"},
  {"mdev.descriptors", "uint64", false, false, nil,
   "mdev.descriptors"},
  {"mdev.message", "bytes", false, false, nil,
   "mdev.message"},
  {"mdev.moved_to", "string", false, false, nil,
   "mdev.moved_to"},
  {"mdev.name", "string", false, false, nil,
   "mdev.name"},
  {"mdev.offset", "uint64", false, false, nil,
   "mdev.offset"},
  {"mdev.parent", "string", false, false, nil,
   "mdev.parent"},
  {"mdev.partition", "string", false, false, nil,
   "mdev.partition"},
  {"mdev.reason", "string", false, false, nil,
   "mdev.reason"},
  {"mdev.result", "uint32", false, false, nil,
   "mdev.result"},
  {"mdev.session", "uint32", false, false, nil,
   "mdev.session"},
  {"mdev.step", "uint32", false, false, VALUES[11],
   "mdev.step"},
  {"mdev.target", "uint64", false, false, nil,
   "mdev.target"},
  {"mdev.text", "string", false, false, nil,
   "mdev.text"},
  {"mdev.transfer", "uint64", false, false, nil,
   "mdev.transfer"},
  {"mdev.type", "string", false, false, nil,
   "mdev.type"},
  {"memory.address", "uint64", true, false, nil,
   "memory.address"},
  {"memory.data", "bytes", false, false, nil,
   "memory.data"},
  {"memory.error", "int32", false, false, nil,
   "memory.error"},
  {"memory.kind", "uint8", false, false, VALUES[12],
   "what moved the bytes"},
  {"memory.length", "uint32", false, false, nil,
   "memory.length"},
  {"mgmt.changes.detail", "string", false, false, nil,
   "mgmt.changes.detail"},
  {"mgmt.changes.kind", "uint32", false, false, VALUES[13],
   "mgmt.changes.kind"},
  {"mgmt.changes.name", "string", false, false, nil,
   "mgmt.changes.name"},
  {"mgmt.changes.object", "uint32", false, false, VALUES[14],
   "mgmt.changes.object"},
  {"mgmt.changes.revision", "uint64", false, false, nil,
   "mgmt.changes.revision"},
  {"mgmt.changes.slot", "uint32", false, false, nil,
   "mgmt.changes.slot"},
  {"mgmt.changes.state", "uint32", false, false, VALUES[15],
   "mgmt.changes.state"},
  {"mgmt.changes.uuid", "string", false, false, nil,
   "mgmt.changes.uuid"},
  {"mgmt.create_adapter.mac", "string", false, false, nil,
   "mgmt.create_adapter.mac"},
  {"mgmt.create_adapter.partition", "string", false, false, nil,
   "mgmt.create_adapter.partition"},
  {"mgmt.create_adapter.slot", "uint32", false, false, nil,
   "mgmt.create_adapter.slot"},
  {"mgmt.create_adapter.switch", "string", false, false, nil,
   "mgmt.create_adapter.switch"},
  {"mgmt.create_adapter.vlan", "uint32", false, false, nil,
   "mgmt.create_adapter.vlan"},
  {"mgmt.create_partition.label", "string", false, false, nil,
   "mgmt.create_partition.label"},
  {"mgmt.create_partition.lpar_id", "uint32", false, false, nil,
   "mgmt.create_partition.lpar_id"},
  {"mgmt.create_partition.max_memory_bytes", "uint64", false, false, nil,
   "mgmt.create_partition.max_memory_bytes"},
  {"mgmt.create_partition.memory_bytes", "uint64", false, false, nil,
   "mgmt.create_partition.memory_bytes"},
  {"mgmt.create_partition.min_memory_bytes", "uint64", false, false, nil,
   "mgmt.create_partition.min_memory_bytes"},
  {"mgmt.create_partition.name", "string", false, false, nil,
   "mgmt.create_partition.name"},
  {"mgmt.create_partition.processors.dedicated", "bool", false, false, nil,
   "mgmt.create_partition.processors.dedicated"},
  {"mgmt.create_partition.processors.max_units", "uint32", false, false, nil,
   "mgmt.create_partition.processors.max_units"},
  {"mgmt.create_partition.processors.max_virtual", "uint32", false, false, nil,
   "mgmt.create_partition.processors.max_virtual"},
  {"mgmt.create_partition.processors.min_units", "uint32", false, false, nil,
   "mgmt.create_partition.processors.min_units"},
  {"mgmt.create_partition.processors.min_virtual", "uint32", false, false, nil,
   "mgmt.create_partition.processors.min_virtual"},
  {"mgmt.create_partition.processors.uncapped", "bool", false, false, nil,
   "mgmt.create_partition.processors.uncapped"},
  {"mgmt.create_partition.processors.units", "uint32", false, false, nil,
   "mgmt.create_partition.processors.units"},
  {"mgmt.create_partition.processors.virtual", "uint32", false, false, nil,
   "mgmt.create_partition.processors.virtual"},
  {"mgmt.create_partition.processors.weight", "uint32", false, false, nil,
   "mgmt.create_partition.processors.weight"},
  {"mgmt.create_partition.type", "string", false, false, nil,
   "mgmt.create_partition.type"},
  {"mgmt.create_partition.uuid", "string", false, false, nil,
   "mgmt.create_partition.uuid"},
  {"mgmt.create_switch.label", "string", false, false, nil,
   "mgmt.create_switch.label"},
  {"mgmt.delete_adapter.if_revision", "uint64", false, false, nil,
   "mgmt.delete_adapter.if_revision"},
  {"mgmt.delete_adapter.partition", "string", false, false, nil,
   "mgmt.delete_adapter.partition"},
  {"mgmt.delete_adapter.slot", "uint32", false, false, nil,
   "mgmt.delete_adapter.slot"},
  {"mgmt.delete_partition.if_revision", "uint64", false, false, nil,
   "mgmt.delete_partition.if_revision"},
  {"mgmt.delete_partition.name", "string", false, false, nil,
   "mgmt.delete_partition.name"},
  {"mgmt.delete_switch.if_revision", "uint64", false, false, nil,
   "mgmt.delete_switch.if_revision"},
  {"mgmt.delete_switch.name", "string", false, false, nil,
   "mgmt.delete_switch.name"},
  {"mgmt.devcall.data", "bytes", false, false, nil,
   "mgmt.devcall.data"},
  {"mgmt.devcall.device", "uint32", false, false, nil,
   "mgmt.devcall.device"},
  {"mgmt.devcall.func", "uint32", false, false, nil,
   "mgmt.devcall.func"},
  {"mgmt.devcall.version", "uint32", false, false, nil,
   "mgmt.devcall.version"},
  {"mgmt.device_socket.remove", "bool", false, false, nil,
   "mgmt.device_socket.remove"},
  {"mgmt.device_socket.uri", "string", false, false, nil,
   "mgmt.device_socket.uri"},
  {"mgmt.field", "string", false, false, nil,
   "mgmt.field"},
  {"mgmt.finish_flush.drc", "uint32", true, false, nil,
   "mgmt.finish_flush.drc"},
  {"mgmt.finish_flush.token", "uint64", true, false, nil,
   "mgmt.finish_flush.token"},
  {"mgmt.issue_hcall.args", "uint64", true, false, nil,
   "mgmt.issue_hcall.args"},
  {"mgmt.issue_hcall.opcode", "uint64", true, false, VALUES[7],
   "mgmt.issue_hcall.opcode"},
  {"mgmt.issue_hcall.retry_busy", "bool", false, false, nil,
   "mgmt.issue_hcall.retry_busy"},
  {"mgmt.list_partitions.first", "uint32", false, false, nil,
   "mgmt.list_partitions.first"},
  {"mgmt.mdev.attributes", "string", false, false, nil,
   "name=value"},
  {"mgmt.mdev.data", "bytes", false, false, nil,
   "mgmt.mdev.data"},
  {"mgmt.mdev.force", "bool", false, false, nil,
   "mgmt.mdev.force"},
  {"mgmt.mdev.host", "string", false, false, nil,
   "mgmt.mdev.host"},
  {"mgmt.mdev.length", "uint64", false, false, nil,
   "mgmt.mdev.length"},
  {"mgmt.mdev.name", "string", false, false, nil,
   "mgmt.mdev.name"},
  {"mgmt.mdev.offset", "uint64", false, false, nil,
   "mgmt.mdev.offset"},
  {"mgmt.mdev.parent", "string", false, false, nil,
   "mgmt.mdev.parent"},
  {"mgmt.mdev.partition", "string", false, false, nil,
   "mgmt.mdev.partition"},
  {"mgmt.mdev.path", "string", false, false, nil,
   "mgmt.mdev.path"},
  {"mgmt.mdev.region", "uint32", false, false, nil,
   "mgmt.mdev.region"},
  {"mgmt.mdev.type", "string", false, false, nil,
   "mgmt.mdev.type"},
  {"mgmt.mdev.verb", "uint32", false, false, VALUES[16],
   "mgmt.mdev.verb"},
  {"mgmt.mdev_assign.host", "string", false, false, nil,
   "mgmt.mdev_assign.host"},
  {"mgmt.mdev_assign.name", "string", false, false, nil,
   "mgmt.mdev_assign.name"},
  {"mgmt.mdev_assign.release", "bool", false, false, nil,
   "mgmt.mdev_assign.release"},
  {"mgmt.missed", "bool", false, false, nil,
   "mgmt.missed"},
  {"mgmt.modify_adapter.if_revision", "uint64", false, false, nil,
   "mgmt.modify_adapter.if_revision"},
  {"mgmt.modify_adapter.mac", "string", false, false, nil,
   "mgmt.modify_adapter.mac"},
  {"mgmt.modify_adapter.partition", "string", false, false, nil,
   "mgmt.modify_adapter.partition"},
  {"mgmt.modify_adapter.slot", "uint32", false, false, nil,
   "mgmt.modify_adapter.slot"},
  {"mgmt.modify_adapter.switch", "string", false, false, nil,
   "mgmt.modify_adapter.switch"},
  {"mgmt.modify_adapter.vlan", "uint32", false, false, nil,
   "mgmt.modify_adapter.vlan"},
  {"mgmt.modify_partition.if_revision", "uint64", false, false, nil,
   "mgmt.modify_partition.if_revision"},
  {"mgmt.modify_partition.label", "string", false, false, nil,
   "mgmt.modify_partition.label"},
  {"mgmt.modify_partition.max_memory_bytes", "uint64", false, false, nil,
   "mgmt.modify_partition.max_memory_bytes"},
  {"mgmt.modify_partition.memory_bytes", "uint64", false, false, nil,
   "mgmt.modify_partition.memory_bytes"},
  {"mgmt.modify_partition.min_memory_bytes", "uint64", false, false, nil,
   "mgmt.modify_partition.min_memory_bytes"},
  {"mgmt.modify_partition.name", "string", false, false, nil,
   "mgmt.modify_partition.name"},
  {"mgmt.modify_partition.processors.dedicated", "bool", false, false, nil,
   "mgmt.modify_partition.processors.dedicated"},
  {"mgmt.modify_partition.processors.max_units", "uint32", false, false, nil,
   "mgmt.modify_partition.processors.max_units"},
  {"mgmt.modify_partition.processors.max_virtual", "uint32", false, false, nil,
   "mgmt.modify_partition.processors.max_virtual"},
  {"mgmt.modify_partition.processors.min_units", "uint32", false, false, nil,
   "mgmt.modify_partition.processors.min_units"},
  {"mgmt.modify_partition.processors.min_virtual", "uint32", false, false, nil,
   "mgmt.modify_partition.processors.min_virtual"},
  {"mgmt.modify_partition.processors.uncapped", "bool", false, false, nil,
   "mgmt.modify_partition.processors.uncapped"},
  {"mgmt.modify_partition.processors.units", "uint32", false, false, nil,
   "mgmt.modify_partition.processors.units"},
  {"mgmt.modify_partition.processors.virtual", "uint32", false, false, nil,
   "mgmt.modify_partition.processors.virtual"},
  {"mgmt.modify_partition.processors.weight", "uint32", false, false, nil,
   "mgmt.modify_partition.processors.weight"},
  {"mgmt.next", "uint32", false, false, nil,
   "mgmt.next"},
  {"mgmt.outs", "uint64", true, false, nil,
   "mgmt.outs"},
  {"mgmt.partitions.adapters.address", "string", false, false, nil,
   "mgmt.partitions.adapters.address"},
  {"mgmt.partitions.adapters.device", "string", false, false, nil,
   "mgmt.partitions.adapters.device"},
  {"mgmt.partitions.adapters.mac", "string", false, false, nil,
   "mgmt.partitions.adapters.mac"},
  {"mgmt.partitions.adapters.revision", "uint64", false, false, nil,
   "mgmt.partitions.adapters.revision"},
  {"mgmt.partitions.adapters.slot", "uint32", false, false, nil,
   "mgmt.partitions.adapters.slot"},
  {"mgmt.partitions.adapters.switch", "string", false, false, nil,
   "mgmt.partitions.adapters.switch"},
  {"mgmt.partitions.adapters.uuid", "string", false, false, nil,
   "mgmt.partitions.adapters.uuid"},
  {"mgmt.partitions.adapters.vlan", "uint32", false, false, nil,
   "mgmt.partitions.adapters.vlan"},
  {"mgmt.partitions.current_memory_bytes", "uint64", false, false, nil,
   "mgmt.partitions.current_memory_bytes"},
  {"mgmt.partitions.guest_ready", "bool", false, false, nil,
   "mgmt.partitions.guest_ready"},
  {"mgmt.partitions.label", "string", false, false, nil,
   "mgmt.partitions.label"},
  {"mgmt.partitions.lpar_id", "uint32", false, false, nil,
   "mgmt.partitions.lpar_id"},
  {"mgmt.partitions.management", "bool", false, false, nil,
   "mgmt.partitions.management"},
  {"mgmt.partitions.max_memory_bytes", "uint64", false, false, nil,
   "mgmt.partitions.max_memory_bytes"},
  {"mgmt.partitions.memory_bytes", "uint64", false, false, nil,
   "mgmt.partitions.memory_bytes"},
  {"mgmt.partitions.min_memory_bytes", "uint64", false, false, nil,
   "mgmt.partitions.min_memory_bytes"},
  {"mgmt.partitions.name", "string", false, false, nil,
   "mgmt.partitions.name"},
  {"mgmt.partitions.pid", "uint32", false, false, nil,
   "mgmt.partitions.pid"},
  {"mgmt.partitions.processors.dedicated", "bool", false, false, nil,
   "mgmt.partitions.processors.dedicated"},
  {"mgmt.partitions.processors.max_units", "uint32", false, false, nil,
   "mgmt.partitions.processors.max_units"},
  {"mgmt.partitions.processors.max_virtual", "uint32", false, false, nil,
   "mgmt.partitions.processors.max_virtual"},
  {"mgmt.partitions.processors.min_units", "uint32", false, false, nil,
   "mgmt.partitions.processors.min_units"},
  {"mgmt.partitions.processors.min_virtual", "uint32", false, false, nil,
   "mgmt.partitions.processors.min_virtual"},
  {"mgmt.partitions.processors.uncapped", "bool", false, false, nil,
   "mgmt.partitions.processors.uncapped"},
  {"mgmt.partitions.processors.units", "uint32", false, false, nil,
   "mgmt.partitions.processors.units"},
  {"mgmt.partitions.processors.virtual", "uint32", false, false, nil,
   "mgmt.partitions.processors.virtual"},
  {"mgmt.partitions.processors.weight", "uint32", false, false, nil,
   "mgmt.partitions.processors.weight"},
  {"mgmt.partitions.restarts", "uint32", false, false, nil,
   "mgmt.partitions.restarts"},
  {"mgmt.partitions.revision", "uint64", false, false, nil,
   "mgmt.partitions.revision"},
  {"mgmt.partitions.scm.block_bytes", "uint64", false, false, nil,
   "mgmt.partitions.scm.block_bytes"},
  {"mgmt.partitions.scm.drc", "uint32", false, false, nil,
   "mgmt.partitions.scm.drc"},
  {"mgmt.partitions.scm.label_bytes", "uint64", false, false, nil,
   "mgmt.partitions.scm.label_bytes"},
  {"mgmt.partitions.scm.size_bytes", "uint64", false, false, nil,
   "mgmt.partitions.scm.size_bytes"},
  {"mgmt.partitions.scm.type", "string", false, false, nil,
   "mgmt.partitions.scm.type"},
  {"mgmt.partitions.scm.uuid", "string", false, false, nil,
   "mgmt.partitions.scm.uuid"},
  {"mgmt.partitions.state", "uint32", false, false, VALUES[15],
   "mgmt.partitions.state"},
  {"mgmt.partitions.text", "string", false, false, nil,
   "mgmt.partitions.text"},
  {"mgmt.partitions.type", "string", false, false, nil,
   "mgmt.partitions.type"},
  {"mgmt.partitions.uuid", "string", false, false, nil,
   "mgmt.partitions.uuid"},
  {"mgmt.ping.address", "string", false, false, nil,
   "mgmt.ping.address"},
  {"mgmt.ping.count", "uint32", false, false, nil,
   "mgmt.ping.count"},
  {"mgmt.ping.interval_ms", "uint32", false, false, nil,
   "mgmt.ping.interval_ms"},
  {"mgmt.ping.payload_bytes", "uint32", false, false, nil,
   "mgmt.ping.payload_bytes"},
  {"mgmt.ping.timeout_ms", "uint32", false, false, nil,
   "mgmt.ping.timeout_ms"},
  {"mgmt.power_off.mode", "uint32", false, false, VALUES[17],
   "mgmt.power_off.mode"},
  {"mgmt.power_off.name", "string", false, false, nil,
   "mgmt.power_off.name"},
  {"mgmt.power_off.restart", "bool", false, false, nil,
   "mgmt.power_off.restart"},
  {"mgmt.power_off.timeout_ms", "uint32", false, false, nil,
   "mgmt.power_off.timeout_ms"},
  {"mgmt.power_on.name", "string", false, false, nil,
   "mgmt.power_on.name"},
  {"mgmt.rc", "int64", false, false, VALUES[8],
   "mgmt.rc"},
  {"mgmt.revision", "uint64", false, false, nil,
   "mgmt.revision"},
  {"mgmt.scm_inject.count", "uint32", false, false, nil,
   "mgmt.scm_inject.count"},
  {"mgmt.scm_inject.drc", "uint32", true, false, nil,
   "mgmt.scm_inject.drc"},
  {"mgmt.scm_inject.error", "uint32", false, false, nil,
   "mgmt.scm_inject.error"},
  {"mgmt.scm_inject.health_bits", "uint64", true, false, nil,
   "mgmt.scm_inject.health_bits"},
  {"mgmt.scm_inject.health_valid", "uint64", true, false, nil,
   "mgmt.scm_inject.health_valid"},
  {"mgmt.scm_inject.kind", "uint32", false, false, VALUES[18],
   "mgmt.scm_inject.kind"},
  {"mgmt.scm_inject.opcode", "uint64", true, false, VALUES[7],
   "mgmt.scm_inject.opcode"},
  {"mgmt.scm_inject.partition", "string", false, false, nil,
   "mgmt.scm_inject.partition"},
  {"mgmt.scm_inject.rc", "int64", false, false, VALUES[8],
   "mgmt.scm_inject.rc"},
  {"mgmt.show_partition.name", "string", false, false, nil,
   "mgmt.show_partition.name"},
  {"mgmt.status", "uint32", false, false, VALUES[19],
   "mgmt.status"},
  {"mgmt.status_json", "string", false, false, nil,
   "mgmt.status_json"},
  {"mgmt.switch.port", "string", false, false, nil,
   "mgmt.switch.port"},
  {"mgmt.switch.switch", "string", false, false, nil,
   "mgmt.switch.switch"},
  {"mgmt.switch.verb", "uint32", false, false, VALUES[20],
   "mgmt.switch.verb"},
  {"mgmt.switches.label", "string", false, false, nil,
   "mgmt.switches.label"},
  {"mgmt.switches.mtu", "uint32", false, false, nil,
   "mgmt.switches.mtu"},
  {"mgmt.switches.name", "string", false, false, nil,
   "mgmt.switches.name"},
  {"mgmt.switches.revision", "uint64", false, false, nil,
   "mgmt.switches.revision"},
  {"mgmt.switches.uuid", "string", false, false, nil,
   "mgmt.switches.uuid"},
  {"mgmt.system.free_memory_bytes", "uint64", false, false, nil,
   "mgmt.system.free_memory_bytes"},
  {"mgmt.system.free_processor_units", "uint32", false, false, nil,
   "mgmt.system.free_processor_units"},
  {"mgmt.system.lab", "string", false, false, nil,
   "mgmt.system.lab"},
  {"mgmt.system.machine_type", "string", false, false, nil,
   "mgmt.system.machine_type"},
  {"mgmt.system.max_partitions", "uint32", false, false, nil,
   "mgmt.system.max_partitions"},
  {"mgmt.system.memory_bytes", "uint64", false, false, nil,
   "mgmt.system.memory_bytes"},
  {"mgmt.system.memory_region_bytes", "uint64", false, false, nil,
   "mgmt.system.memory_region_bytes"},
  {"mgmt.system.model", "string", false, false, nil,
   "mgmt.system.model"},
  {"mgmt.system.name", "string", false, false, nil,
   "mgmt.system.name"},
  {"mgmt.system.processor_units", "uint32", false, false, nil,
   "mgmt.system.processor_units"},
  {"mgmt.system.revision", "uint64", false, false, nil,
   "mgmt.system.revision"},
  {"mgmt.system.serial", "string", false, false, nil,
   "mgmt.system.serial"},
  {"mgmt.system.uuid", "string", false, false, nil,
   "mgmt.system.uuid"},
  {"mgmt.tap.path", "string", false, false, nil,
   "mgmt.tap.path"},
  {"mgmt.tap.snaplen", "uint32", false, false, nil,
   "mgmt.tap.snaplen"},
  {"mgmt.text", "string", false, false, nil,
   "mgmt.text"},
  {"mgmt.token", "uint32", false, false, nil,
   "mgmt.token"},
  {"mgmt.use_topology.topology", "bytes", false, false, nil,
   "mgmt.use_topology.topology"},
  {"mgmt.vbus.attributes", "string", false, false, nil,
   "name=value"},
  {"mgmt.vbus.bus", "string", false, false, nil,
   "mgmt.vbus.bus"},
  {"mgmt.vbus.class", "string", false, false, nil,
   "mgmt.vbus.class"},
  {"mgmt.vbus.device", "string", false, false, nil,
   "mgmt.vbus.device"},
  {"mgmt.vbus.force", "bool", false, false, nil,
   "mgmt.vbus.force"},
  {"mgmt.vbus.node", "string", false, false, nil,
   "mgmt.vbus.node"},
  {"mgmt.vbus.verb", "uint32", false, false, VALUES[21],
   "mgmt.vbus.verb"},
  {"mgmt.watch_changes.after", "uint64", false, false, nil,
   "mgmt.watch_changes.after"},
  {"mgmt.watch_changes.wait_ms", "uint32", false, false, nil,
   "mgmt.watch_changes.wait_ms"},
  {"net.kind", "uint8", false, false, VALUES[22],
   "kind of link message"},
  {"net.messages", "bytes", false, false, nil,
   "net.messages"},
  {"queue.element", "bytes", false, false, nil,
   "what was in it"},
  {"queue.slot", "uint32", false, false, nil,
   "number of a CRQ slot that was looked at"},
  {"refusal.text", "string", false, false, nil,
   "refusal.text"},
  {"router.correlation", "uint32", false, false, nil,
   "pairs a response with its request"},
  {"router.data", "bytes", false, false, nil,
   "what is carried"},
  {"router.flags", "uint8", true, true, VALUES[23],
   "0x40: response"},
  {"router.opcode", "uint16", true, false, VALUES[24],
   "what is asked"},
  {"router.rc", "uint16", true, false, VALUES[25],
   "return code"},
  {"router.target", "uint16", true, false, VALUES[26],
   "who is meant"},
  {"vbus.abi_version", "uint32", false, false, nil,
   "of NEGOTIATE"},
  {"vbus.base", "uint64", true, false, nil,
   "vbus.base"},
  {"vbus.bus_vector", "uint32", false, false, VALUES[27],
   "what the bus call does"},
  {"vbus.bytes", "uint64", false, false, nil,
   "vbus.bytes"},
  {"vbus.call", "bytes", false, false, nil,
   "vbus.call"},
  {"vbus.call_address", "uint64", true, false, nil,
   "where they are"},
  {"vbus.call_data", "bytes", false, false, nil,
   "a devcall's data"},
  {"vbus.call_flags", "uint32", true, false, nil,
   "flags of the bus call"},
  {"vbus.call_length", "uint32", false, false, nil,
   "bytes of a devcall's data"},
  {"vbus.capabilities", "uint64", true, true, VALUES[28],
   "of NEGOTIATE"},
  {"vbus.channel", "uint32", false, false, nil,
   "number of a fast call channel"},
  {"vbus.device", "uint64", false, false, nil,
   "id of the device on the bus"},
  {"vbus.device_version", "uint32", false, false, nil,
   "version of the device's interface"},
  {"vbus.event", "uint32", false, false, VALUES[29],
   "kind of event"},
  {"vbus.event_handle", "uint64", true, false, nil,
   "device or cookie that it is about"},
  {"vbus.event_type", "string", false, false, nil,
   "type of the device that came"},
  {"vbus.func", "uint32", false, false, nil,
   "function of a devcall"},
  {"vbus.handle", "uint64", true, false, nil,
   "open handle"},
  {"vbus.magic", "uint32", true, false, nil,
   "of NEGOTIATE"},
  {"vbus.more", "bool", false, false, nil,
   "vbus.more"},
  {"vbus.offset", "uint32", true, false, VALUES[30],
   "vbus.offset"},
  {"vbus.parameter_address", "uint64", true, false, nil,
   "where the parameters are"},
  {"vbus.parameter_length", "uint32", false, false, nil,
   "bytes of the parameters"},
  {"vbus.queue", "uint32", false, false, nil,
   "vbus.queue"},
  {"vbus.queue_data", "uint64", true, false, nil,
   "where its events are"},
  {"vbus.queue_events", "uint32", false, false, nil,
   "events of a queue of QREG"},
  {"vbus.queue_ring", "uint64", true, false, nil,
   "where its ring is"},
  {"vbus.result", "int32", false, false, nil,
   "vbus.result"},
  {"vbus.shared", "uint64", false, false, nil,
   "vbus.shared"},
  {"vbus.shm_address", "uint64", true, false, nil,
   "where it is"},
  {"vbus.shm_cookie", "uint64", true, false, nil,
   "names its signal"},
  {"vbus.shm_id", "uint32", false, false, nil,
   "region of a DEVSHM"},
  {"vbus.shm_length", "uint32", false, false, nil,
   "its bytes"},
  {"vbus.shm_prio", "uint32", false, false, nil,
   "its event queue"},
  {"vbus.shm_signal_offset", "uint32", true, false, VALUES[31],
   "its signal"},
  {"vbus.value", "uint32", true, false, nil,
   "vbus.value"},
  {"vbus.vector", "uint32", false, false, VALUES[32],
   "what the bridge call does"},
  {"vbus.writes.address", "uint64", true, false, nil,
   "vbus.writes.address"},
  {"vbus.writes.data", "bytes", false, false, nil,
   "vbus.writes.data"},
  {"venet.bits", "uint32", true, false, nil,
   "capabilities asked for, or agreed"},
  {"venet.cookie", "uint64", true, false, nil,
   "of a packet"},
  {"venet.csum_offset", "uint16", false, false, nil,
   "where it is stored"},
  {"venet.csum_start", "uint16", false, false, nil,
   "where the checksum begins"},
  {"venet.event_bytes", "uint32", false, false, nil,
   "bytes of an event"},
  {"venet.flags", "uint32", true, true, VALUES[33],
   "of a packet"},
  {"venet.fragments", "uint32", false, false, nil,
   "pieces of a packet"},
  {"venet.function", "uint32", false, false, VALUES[34],
   "function of a devcall of an Ethernet device"},
  {"venet.group", "uint32", false, false, VALUES[35],
   "group of NEGCAP"},
  {"venet.gso_hdrlen", "uint16", false, false, nil,
   "bytes of headers that each piece gets"},
  {"venet.gso_size", "uint16", false, false, nil,
   "payload bytes of each piece"},
  {"venet.gso_type", "uint16", false, false, VALUES[36],
   "how the packet is cut"},
  {"venet.length", "uint32", false, false, nil,
   "bytes of a packet"},
  {"venet.mac", "string", false, false, nil,
   "answer of MACQUERY"},
  {"venet.pool", "uint32", false, false, nil,
   "region of a pool"},
  {"venet.queue", "uint32", false, false, nil,
   "region of a queue"},
  {"vfio.address", "uint64", true, false, nil,
   "DMA address (iova)"},
  {"vfio.argsz", "uint32", false, false, nil,
   "room, or what it takes"},
  {"vfio.capabilities", "string", false, false, nil,
   "of VERSION, JSON"},
  {"vfio.command", "uint16", false, false, VALUES[37],
   "command"},
  {"vfio.count", "uint64", false, false, nil,
   "bytes, or how many"},
  {"vfio.data", "bytes", false, false, nil,
   "what is read or written"},
  {"vfio.device_flags", "uint32", true, true, VALUES[38],
   "of the device"},
  {"vfio.dma_flags", "uint32", true, true, VALUES[39],
   "of DMA_MAP"},
  {"vfio.error", "uint32", false, false, nil,
   "errno"},
  {"vfio.feature", "uint16", false, false, VALUES[40],
   "number of the feature"},
  {"vfio.feature_flags", "uint32", true, true, VALUES[41],
   "what to do with it"},
  {"vfio.file_offset", "uint64", true, false, nil,
   "where the mapping begins in its descriptor"},
  {"vfio.flags", "uint32", true, true, VALUES[42],
   "bits 0-3 type, 4 No_reply, 5 Error"},
  {"vfio.id", "uint16", true, false, nil,
   "pairs a reply with its command"},
  {"vfio.irq", "uint32", false, false, nil,
   "index of the irq"},
  {"vfio.irq_count", "uint32", false, false, nil,
   "sub-indices of the irq"},
  {"vfio.irq_flags", "uint32", true, true, VALUES[43],
   "of the irq"},
  {"vfio.irq_set", "uint32", true, true, VALUES[44],
   "data and action of SET_IRQS"},
  {"vfio.irq_start", "uint32", false, false, nil,
   "first sub-index"},
  {"vfio.irqs", "uint32", false, false, nil,
   "how many irqs"},
  {"vfio.length", "uint64", false, false, nil,
   "bytes of a mapping"},
  {"vfio.major", "uint16", false, false, nil,
   "of VERSION"},
  {"vfio.migration_state", "uint32", false, false, VALUES[45],
   "state of migration"},
  {"vfio.minor", "uint16", false, false, nil,
   "of VERSION"},
  {"vfio.offset", "uint64", true, false, nil,
   "in the region"},
  {"vfio.region", "uint32", false, false, nil,
   "index of the region"},
  {"vfio.region_flags", "uint32", true, true, VALUES[46],
   "of the region"},
  {"vfio.region_size", "uint64", true, false, nil,
   "bytes of the region"},
  {"vfio.regions", "uint32", false, false, nil,
   "how many regions"},
  {"vfio.size", "uint32", false, false, nil,
   "bytes of the message"},
  {"vfio.unmap_flags", "uint32", true, true, VALUES[47],
   "of DMA_UNMAP"},
  {"vmc.buffer_id", "uint16", false, false, VALUES[48],
   "number of the buffer, 0xffff: none"},
  {"vmc.crq_size", "uint16", false, false, nil,
   "slots of the sender's queue"},
  {"vmc.index", "uint8", false, false, nil,
   "number of the connection"},
  {"vmc.length", "uint32", false, false, nil,
   "bytes in the buffer"},
  {"vmc.lioba", "uint32", true, false, nil,
   "the buffer's I/O address"},
  {"vmc.max_hmc", "uint8", false, false, nil,
   "connections"},
  {"vmc.max_mtu", "uint32", false, false, nil,
   "bytes of a message"},
  {"vmc.owner", "uint8", false, false, VALUES[49],
   "who may fill the buffer"},
  {"vmc.pool_size", "uint16", false, false, nil,
   "buffers of a connection"},
  {"vmc.session", "uint8", false, false, nil,
   "incarnation of the connection"},
  {"vmc.status", "uint8", false, false, nil,
   "0: well; the other numbers differ by dialect"},
  {"vmc.type", "uint8", true, false, VALUES[50],
   "byte 1"},
  {"vmc.version", "uint16", true, false, nil,
   "major, minor"},
}
local MESSAGES = {
  ["pvnet.v1.Adapter"] = {
    {1, "slot", "uint32"},
    {2, "uuid", "string"},
    {3, "mac", "string"},
    {4, "switch", "string"},
    {5, "vlan", "uint32"},
    {6, "device", "string"},
    {7, "address", "string"},
    {8, "revision", "uint64"},
  },
  ["pvnet.v1.Change"] = {
    {1, "revision", "uint64"},
    {2, "kind", "enum"},
    {3, "object", "enum"},
    {4, "name", "string"},
    {5, "slot", "uint32"},
    {6, "uuid", "string"},
    {7, "detail", "string"},
    {8, "state", "enum"},
  },
  ["pvnet.v1.CreateAdapter"] = {
    {1, "partition", "string"},
    {2, "slot", "uint32"},
    {3, "mac", "string"},
    {4, "switch", "string"},
    {5, "vlan", "uint32"},
  },
  ["pvnet.v1.CreatePartition"] = {
    {1, "name", "string"},
    {2, "label", "string"},
    {3, "lpar_id", "uint32"},
    {4, "uuid", "string"},
    {5, "memory_bytes", "uint64"},
    {6, "min_memory_bytes", "uint64"},
    {7, "max_memory_bytes", "uint64"},
    {8, "processors", "message", type="pvnet.v1.Processors", optional=true},
    {9, "type", "string"},
  },
  ["pvnet.v1.CreateSwitch"] = {
    {1, "label", "string"},
  },
  ["pvnet.v1.CrqEntry"] = {
    {1, "unit", "uint32"},
    {2, "registration", "uint32"},
    {3, "slot", "uint32"},
    {4, "element", "bytes"},
    {5, "irq", "bool"},
  },
  ["pvnet.v1.CrqProgress"] = {
    {1, "unit", "uint32"},
    {2, "registration", "uint32"},
    {3, "consumed", "uint64"},
  },
  ["pvnet.v1.DeleteAdapter"] = {
    {1, "partition", "string"},
    {2, "slot", "uint32"},
    {3, "if_revision", "uint64"},
  },
  ["pvnet.v1.DeletePartition"] = {
    {1, "name", "string"},
    {2, "if_revision", "uint64"},
  },
  ["pvnet.v1.DeleteSwitch"] = {
    {1, "name", "string"},
    {2, "if_revision", "uint64"},
  },
  ["pvnet.v1.DeviceIo"] = {
    {1, "operation", "enum"},
    {2, "path", "string"},
    {3, "handle", "uint32"},
    {4, "command", "uint32"},
    {5, "data", "bytes"},
    {6, "count", "uint32"},
    {7, "nonblock", "bool"},
    {8, "interrupts", "uint64"},
    {9, "offset", "uint64"},
  },
  ["pvnet.v1.DeviceReply"] = {
    {1, "result", "sint32"},
    {2, "data", "bytes"},
  },
  ["pvnet.v1.DeviceSocket"] = {
    {1, "uri", "string"},
    {2, "remove", "bool"},
  },
  ["pvnet.v1.DirectAddress"] = {
    {1, "host", "string"},
    {2, "path", "string"},
  },
  ["pvnet.v1.Envelope"] = {
    {1, "schema", "uint32"},
    {2, "lab", "string"},
    {3, "source", "string"},
    {4, "source_incarnation", "fixed64"},
    {5, "destination", "string"},
    {6, "destination_incarnation", "fixed64"},
    {7, "stream", "uint32"},
    {8, "seq", "uint64"},
    {9, "ack_stream", "uint32"},
    {10, "ack", "uint64"},
    {11, "correlation", "uint64"},
    {12, "deadline_ms", "uint32"},
    {13, "monotonic_ns", "fixed64"},
    {14, "wall_ns", "fixed64"},
    {15, "trace", "fixed64"},
    {20, "hcall", "message", type="pvnet.v1.Hcall", optional=true, oneof="body"},
    {21, "hcall_reply", "message", type="pvnet.v1.HcallReply", optional=true, oneof="body"},
    {22, "crq_entry", "message", type="pvnet.v1.CrqEntry", optional=true, oneof="body"},
    {23, "crq_progress", "message", type="pvnet.v1.CrqProgress", optional=true, oneof="body"},
    {24, "irq", "message", type="pvnet.v1.Irq", optional=true, oneof="body"},
    {25, "memory_read", "message", type="pvnet.v1.MemoryRead", optional=true, oneof="body"},
    {26, "memory_write", "message", type="pvnet.v1.MemoryWrite", optional=true, oneof="body"},
    {27, "memory_reply", "message", type="pvnet.v1.MemoryReply", optional=true, oneof="body"},
    {30, "vbus_attach", "message", type="pvnet.v1.VbusAttach", optional=true, oneof="body"},
    {31, "vbus_call", "message", type="pvnet.v1.VbusCall", optional=true, oneof="body"},
    {32, "vbus_reply", "message", type="pvnet.v1.VbusReply", optional=true, oneof="body"},
    {33, "vbus_doorbell", "message", type="pvnet.v1.VbusDoorbell", optional=true, oneof="body"},
    {34, "vbus_irq", "message", type="pvnet.v1.VbusIrq", optional=true, oneof="body"},
    {35, "vbus_update", "message", type="pvnet.v1.VbusUpdate", optional=true, oneof="body"},
    {36, "net_frames", "message", type="pvnet.v1.NetFrames", optional=true, oneof="body"},
    {40, "device_io", "message", type="pvnet.v1.DeviceIo", optional=true, oneof="body"},
    {41, "device_reply", "message", type="pvnet.v1.DeviceReply", optional=true, oneof="body"},
    {42, "mdev_open", "message", type="pvnet.v1.MdevOpen", optional=true, oneof="body"},
    {43, "mdev_reply", "message", type="pvnet.v1.MdevReply", optional=true, oneof="body"},
    {44, "mdev_message", "message", type="pvnet.v1.MdevMessage", optional=true, oneof="body"},
    {45, "mdev_irq", "message", type="pvnet.v1.MdevIrq", optional=true, oneof="body"},
    {46, "mdev_close", "message", type="pvnet.v1.MdevClose", optional=true, oneof="body"},
    {47, "mdev_transfer", "message", type="pvnet.v1.MdevTransfer", optional=true, oneof="body"},
    {50, "management", "message", type="pvnet.v1.Management", optional=true, oneof="body"},
    {51, "management_reply", "message", type="pvnet.v1.ManagementReply", optional=true, oneof="body"},
    {60, "lifecycle", "message", type="pvnet.v1.Lifecycle", optional=true, oneof="body"},
    {61, "link_ack", "message", type="pvnet.v1.LinkAck", optional=true, oneof="body"},
    {62, "link_reset", "message", type="pvnet.v1.LinkReset", optional=true, oneof="body"},
    {63, "refusal", "message", type="pvnet.v1.Refusal", optional=true, oneof="body"},
  },
  ["pvnet.v1.FinishFlush"] = {
    {1, "drc", "uint32"},
    {2, "token", "uint64"},
  },
  ["pvnet.v1.Hcall"] = {
    {1, "opcode", "uint64"},
    {2, "args", "uint64", list=true},
    {3, "memory", "bytes", optional=true},
    {4, "problem_state", "bool"},
  },
  ["pvnet.v1.HcallReply"] = {
    {1, "rc", "sint64"},
    {2, "outs", "uint64", list=true},
    {3, "memory", "bytes", optional=true},
  },
  ["pvnet.v1.Irq"] = {
    {1, "unit", "uint32"},
  },
  ["pvnet.v1.IssueHcall"] = {
    {1, "opcode", "uint64"},
    {2, "args", "uint64", list=true},
    {3, "retry_busy", "bool"},
  },
  ["pvnet.v1.Lifecycle"] = {
    {1, "phase", "enum"},
    {2, "role", "string"},
    {3, "connection", "uint32"},
    {4, "text", "string"},
    {5, "pid", "uint32"},
    {6, "host", "string"},
    {7, "version", "string"},
    {8, "direct", "message", type="pvnet.v1.DirectAddress", optional=true},
  },
  ["pvnet.v1.LinkAck"] = {
  },
  ["pvnet.v1.LinkReset"] = {
  },
  ["pvnet.v1.ListPartitions"] = {
    {1, "first", "uint32"},
  },
  ["pvnet.v1.ListSwitches"] = {
  },
  ["pvnet.v1.Management"] = {
    {1, "token", "uint32"},
    {10, "list_partitions", "message", type="pvnet.v1.ListPartitions", optional=true, oneof="command"},
    {11, "show_partition", "message", type="pvnet.v1.ShowPartition", optional=true, oneof="command"},
    {12, "power_on", "message", type="pvnet.v1.PowerOn", optional=true, oneof="command"},
    {13, "power_off", "message", type="pvnet.v1.PowerOff", optional=true, oneof="command"},
    {14, "issue_hcall", "message", type="pvnet.v1.IssueHcall", optional=true, oneof="command"},
    {15, "show_status", "message", type="pvnet.v1.ShowStatus", optional=true, oneof="command"},
    {16, "shut_down", "message", type="pvnet.v1.ShutDown", optional=true, oneof="command"},
    {17, "scm_inject", "message", type="pvnet.v1.ScmInject", optional=true, oneof="command"},
    {18, "finish_flush", "message", type="pvnet.v1.FinishFlush", optional=true, oneof="command"},
    {19, "vbus", "message", type="pvnet.v1.VbusAdmin", optional=true, oneof="command"},
    {20, "switch", "message", type="pvnet.v1.SwitchAdmin", optional=true, oneof="command"},
    {21, "ping", "message", type="pvnet.v1.NetPing", optional=true, oneof="command"},
    {22, "devcall", "message", type="pvnet.v1.VbusDevcall", optional=true, oneof="command"},
    {23, "mdev", "message", type="pvnet.v1.MdevAdmin", optional=true, oneof="command"},
    {24, "mdev_assign", "message", type="pvnet.v1.MdevAssign", optional=true, oneof="command"},
    {25, "tap", "message", type="pvnet.v1.Tap", optional=true, oneof="command"},
    {26, "show_system", "message", type="pvnet.v1.ShowSystem", optional=true, oneof="command"},
    {27, "watch_changes", "message", type="pvnet.v1.WatchChanges", optional=true, oneof="command"},
    {28, "create_partition", "message", type="pvnet.v1.CreatePartition", optional=true, oneof="command"},
    {29, "modify_partition", "message", type="pvnet.v1.ModifyPartition", optional=true, oneof="command"},
    {30, "delete_partition", "message", type="pvnet.v1.DeletePartition", optional=true, oneof="command"},
    {31, "list_switches", "message", type="pvnet.v1.ListSwitches", optional=true, oneof="command"},
    {32, "create_switch", "message", type="pvnet.v1.CreateSwitch", optional=true, oneof="command"},
    {33, "delete_switch", "message", type="pvnet.v1.DeleteSwitch", optional=true, oneof="command"},
    {34, "create_adapter", "message", type="pvnet.v1.CreateAdapter", optional=true, oneof="command"},
    {35, "modify_adapter", "message", type="pvnet.v1.ModifyAdapter", optional=true, oneof="command"},
    {36, "delete_adapter", "message", type="pvnet.v1.DeleteAdapter", optional=true, oneof="command"},
    {37, "use_topology", "message", type="pvnet.v1.UseTopology", optional=true, oneof="command"},
    {38, "device_socket", "message", type="pvnet.v1.DeviceSocket", optional=true, oneof="command"},
  },
  ["pvnet.v1.ManagementReply"] = {
    {1, "token", "uint32"},
    {2, "status", "enum"},
    {3, "text", "string"},
    {4, "partitions", "message", type="pvnet.v1.Partition", list=true},
    {5, "next", "uint32"},
    {6, "rc", "sint64"},
    {7, "outs", "uint64", list=true},
    {8, "status_json", "string"},
    {9, "field", "string"},
    {10, "revision", "uint64"},
    {11, "system", "message", type="pvnet.v1.System", optional=true},
    {12, "switches", "message", type="pvnet.v1.Switch", list=true},
    {13, "changes", "message", type="pvnet.v1.Change", list=true},
    {14, "missed", "bool"},
  },
  ["pvnet.v1.MdevAdmin"] = {
    {1, "verb", "enum"},
    {2, "name", "string"},
    {3, "parent", "string"},
    {4, "type", "string"},
    {5, "attributes", "map"},
    {6, "force", "bool"},
    {7, "path", "string"},
    {8, "data", "bytes"},
    {9, "host", "string"},
    {10, "partition", "string"},
    {11, "region", "uint32"},
    {12, "offset", "uint64"},
    {13, "length", "uint64"},
  },
  ["pvnet.v1.MdevAssign"] = {
    {1, "name", "string"},
    {2, "host", "string"},
    {3, "release", "bool"},
  },
  ["pvnet.v1.MdevClose"] = {
    {1, "session", "uint32"},
    {2, "reason", "string"},
    {3, "moved_to", "string"},
  },
  ["pvnet.v1.MdevIrq"] = {
    {1, "session", "uint32"},
    {2, "target", "uint64"},
  },
  ["pvnet.v1.MdevMessage"] = {
    {1, "session", "uint32"},
    {2, "message", "bytes"},
    {3, "descriptors", "uint64", list=true},
  },
  ["pvnet.v1.MdevOpen"] = {
    {1, "name", "string"},
  },
  ["pvnet.v1.MdevReply"] = {
    {1, "result", "uint32"},
    {2, "session", "uint32"},
    {3, "text", "string"},
  },
  ["pvnet.v1.MdevTransfer"] = {
    {1, "step", "enum"},
    {2, "transfer", "uint64"},
    {3, "name", "string"},
    {4, "type", "string"},
    {5, "parent", "string"},
    {6, "attributes", "map"},
    {7, "partition", "string"},
    {8, "offset", "uint64"},
    {9, "data", "bytes"},
  },
  ["pvnet.v1.MemoryRead"] = {
    {1, "address", "uint64"},
    {2, "length", "uint32"},
  },
  ["pvnet.v1.MemoryReply"] = {
    {1, "error", "sint32"},
    {2, "data", "bytes"},
  },
  ["pvnet.v1.MemoryWrite"] = {
    {1, "address", "uint64"},
    {2, "data", "bytes"},
  },
  ["pvnet.v1.ModifyAdapter"] = {
    {1, "partition", "string"},
    {2, "slot", "uint32"},
    {3, "if_revision", "uint64"},
    {4, "mac", "string", optional=true},
    {5, "switch", "string", optional=true},
    {6, "vlan", "uint32", optional=true},
  },
  ["pvnet.v1.ModifyPartition"] = {
    {1, "name", "string"},
    {2, "if_revision", "uint64"},
    {3, "label", "string", optional=true},
    {4, "memory_bytes", "uint64", optional=true},
    {5, "min_memory_bytes", "uint64", optional=true},
    {6, "max_memory_bytes", "uint64", optional=true},
    {7, "processors", "message", type="pvnet.v1.Processors", optional=true},
  },
  ["pvnet.v1.NetFrames"] = {
    {1, "messages", "bytes", list=true},
  },
  ["pvnet.v1.NetPing"] = {
    {1, "address", "string"},
    {2, "count", "uint32"},
    {3, "payload_bytes", "uint32"},
    {4, "interval_ms", "uint32"},
    {5, "timeout_ms", "uint32"},
  },
  ["pvnet.v1.Partition"] = {
    {1, "name", "string"},
    {2, "lpar_id", "uint32"},
    {3, "state", "enum"},
    {4, "management", "bool"},
    {5, "memory_bytes", "uint64"},
    {6, "pid", "uint32"},
    {7, "restarts", "uint32"},
    {8, "label", "string"},
    {9, "uuid", "string"},
    {10, "min_memory_bytes", "uint64"},
    {11, "max_memory_bytes", "uint64"},
    {12, "current_memory_bytes", "uint64"},
    {13, "processors", "message", type="pvnet.v1.Processors", optional=true},
    {14, "type", "string"},
    {15, "adapters", "message", type="pvnet.v1.Adapter", list=true},
    {16, "scm", "message", type="pvnet.v1.ScmVolume", list=true},
    {17, "revision", "uint64"},
    {18, "text", "string"},
    {19, "guest_ready", "bool"},
  },
  ["pvnet.v1.PowerOff"] = {
    {1, "name", "string"},
    {2, "mode", "enum"},
    {3, "restart", "bool"},
    {4, "timeout_ms", "uint32"},
  },
  ["pvnet.v1.PowerOn"] = {
    {1, "name", "string"},
  },
  ["pvnet.v1.Processors"] = {
    {1, "dedicated", "bool"},
    {2, "units", "uint32"},
    {3, "min_units", "uint32"},
    {4, "max_units", "uint32"},
    {5, "virtual", "uint32"},
    {6, "min_virtual", "uint32"},
    {7, "max_virtual", "uint32"},
    {8, "uncapped", "bool"},
    {9, "weight", "uint32"},
  },
  ["pvnet.v1.Refusal"] = {
    {1, "text", "string"},
  },
  ["pvnet.v1.ScmInject"] = {
    {1, "partition", "string"},
    {2, "drc", "uint32"},
    {3, "kind", "enum"},
    {4, "health_bits", "uint64"},
    {5, "health_valid", "uint64"},
    {6, "opcode", "uint64"},
    {7, "rc", "sint64"},
    {8, "error", "uint32"},
    {9, "count", "uint32"},
  },
  ["pvnet.v1.ScmVolume"] = {
    {1, "drc", "uint32"},
    {2, "size_bytes", "uint64"},
    {3, "block_bytes", "uint64"},
    {4, "label_bytes", "uint64"},
    {5, "type", "string"},
    {6, "uuid", "string"},
  },
  ["pvnet.v1.ShowPartition"] = {
    {1, "name", "string"},
  },
  ["pvnet.v1.ShowStatus"] = {
  },
  ["pvnet.v1.ShowSystem"] = {
  },
  ["pvnet.v1.ShutDown"] = {
  },
  ["pvnet.v1.Switch"] = {
    {1, "name", "string"},
    {2, "label", "string"},
    {3, "uuid", "string"},
    {4, "mtu", "uint32"},
    {5, "revision", "uint64"},
  },
  ["pvnet.v1.SwitchAdmin"] = {
    {1, "verb", "enum"},
    {2, "switch", "string"},
    {3, "port", "string"},
  },
  ["pvnet.v1.System"] = {
    {1, "name", "string"},
    {2, "uuid", "string"},
    {3, "machine_type", "string"},
    {4, "model", "string"},
    {5, "serial", "string"},
    {6, "memory_bytes", "uint64"},
    {7, "free_memory_bytes", "uint64"},
    {8, "memory_region_bytes", "uint64"},
    {9, "processor_units", "uint32"},
    {10, "free_processor_units", "uint32"},
    {11, "revision", "uint64"},
    {12, "max_partitions", "uint32"},
    {13, "lab", "string"},
  },
  ["pvnet.v1.Tap"] = {
    {1, "path", "string"},
    {2, "snaplen", "uint32"},
  },
  ["pvnet.v1.UseTopology"] = {
    {1, "topology", "bytes"},
  },
  ["pvnet.v1.VbusAdmin"] = {
    {1, "verb", "enum"},
    {2, "bus", "string"},
    {3, "device", "string"},
    {4, "class", "string"},
    {5, "node", "string"},
    {6, "attributes", "map"},
    {7, "force", "bool"},
  },
  ["pvnet.v1.VbusAttach"] = {
    {1, "base", "uint64"},
    {2, "bytes", "uint64"},
    {3, "shared", "uint64"},
  },
  ["pvnet.v1.VbusCall"] = {
    {1, "call", "bytes"},
    {2, "writes", "message", type="pvnet.v1.VbusWrite", list=true},
  },
  ["pvnet.v1.VbusDevcall"] = {
    {1, "device", "uint32"},
    {2, "version", "uint32"},
    {3, "func", "uint32"},
    {4, "data", "bytes"},
  },
  ["pvnet.v1.VbusDoorbell"] = {
    {1, "offset", "uint32"},
    {2, "value", "uint32"},
    {3, "writes", "message", type="pvnet.v1.VbusWrite", list=true},
  },
  ["pvnet.v1.VbusIrq"] = {
    {1, "queue", "uint32"},
    {2, "writes", "message", type="pvnet.v1.VbusWrite", list=true},
  },
  ["pvnet.v1.VbusReply"] = {
    {1, "result", "sint32"},
    {2, "writes", "message", type="pvnet.v1.VbusWrite", list=true},
  },
  ["pvnet.v1.VbusUpdate"] = {
    {1, "writes", "message", type="pvnet.v1.VbusWrite", list=true},
    {2, "more", "bool"},
  },
  ["pvnet.v1.VbusWrite"] = {
    {1, "address", "uint64"},
    {2, "data", "bytes"},
  },
  ["pvnet.v1.WatchChanges"] = {
    {1, "after", "uint64"},
    {2, "wait_ms", "uint32"},
  },
}
-- Kind of body: its layer, and whether it ends a call.
local BODIES = {
  hcall = {layer="hcall", reply=false},
  hcall_reply = {layer="hcall", reply=true},
  crq_entry = {layer="crq", reply=false},
  crq_progress = {layer="crq", reply=false},
  irq = {layer="irq", reply=false},
  memory_read = {layer="memory", reply=false},
  memory_write = {layer="memory", reply=false},
  memory_reply = {layer="memory", reply=true},
  vbus_attach = {layer="vbus", reply=false},
  vbus_call = {layer="vbus", reply=false},
  vbus_reply = {layer="vbus", reply=true},
  vbus_doorbell = {layer="vbus", reply=false},
  vbus_irq = {layer="vbus", reply=false},
  vbus_update = {layer="vbus", reply=false},
  net_frames = {layer="net", reply=false},
  device_io = {layer="device", reply=false},
  device_reply = {layer="device", reply=true},
  mdev_open = {layer="mdev", reply=false},
  mdev_reply = {layer="mdev", reply=true},
  mdev_message = {layer="mdev", reply=false},
  mdev_irq = {layer="mdev", reply=false},
  mdev_close = {layer="mdev", reply=false},
  mdev_transfer = {layer="mdev", reply=false},
  management = {layer="mgmt", reply=false},
  management_reply = {layer="mgmt", reply=true},
  lifecycle = {layer="lifecycle", reply=false},
  link_ack = {layer="link", reply=false},
  link_reset = {layer="link", reply=false},
  refusal = {layer="refusal", reply=true},
}
-- Hypervisor calls: names of their registers from r4 up, and whether they print in hex.
local SIGNATURES = {
  [252] = {inputs={{"unit", true}, {"queue", true}, {"length", true}}, outputs={}},
  [256] = {inputs={{"unit", true}}, outputs={}},
  [260] = {inputs={{"unit", true}, {"mode", false}}, outputs={}},
  [264] = {inputs={{"unit", true}, {"high", true}, {"low", true}}, outputs={}},
  [688] = {inputs={{"unit", true}}, outputs={}},
  [272] = {inputs={{"length", true}, {"source_liobn", true}, {"source_ioba", true}, {"dest_liobn", true}, {"dest_ioba", true}}, outputs={}},
  [864] = {inputs={}, outputs={{"drc", true}}},
  [32] = {inputs={{"liobn", true}, {"ioba", true}, {"tce", true}}, outputs={}},
  [28] = {inputs={{"liobn", true}, {"ioba", true}}, outputs={{"tce", true}}},
  [316] = {inputs={{"liobn", true}, {"ioba", true}, {"list", true}, {"count", false}}, outputs={}},
  [312] = {inputs={{"liobn", true}, {"ioba", true}, {"tce", true}, {"count", false}}, outputs={}},
  [996] = {inputs={{"drc", true}, {"offset", true}, {"length", true}}, outputs={{"data", true}}},
  [1000] = {inputs={{"drc", true}, {"offset", true}, {"data", true}, {"length", true}}, outputs={}},
  [1004] = {inputs={{"drc", true}, {"start", false}, {"blocks", false}, {"target", true}, {"token", true}}, outputs={{"token", true}, {"address", true}, {"bound", false}}},
  [1008] = {inputs={{"drc", true}, {"address", true}, {"blocks", false}, {"token", true}}, outputs={{"token", true}, {"unbound", false}}},
  [1020] = {inputs={{"scope", false}, {"drc", true}, {"token", true}}, outputs={{"token", true}, {"unbound", false}}},
  [1012] = {inputs={{"drc", true}, {"block", false}}, outputs={{"address", true}}},
  [1016] = {inputs={{"address", true}}, outputs={{"drc", true}, {"block", false}}},
  [1024] = {inputs={{"drc", true}}, outputs={{"health", true}, {"valid", true}}},
  [1048] = {inputs={{"drc", true}, {"address", true}, {"length", true}}, outputs={{"length", true}}},
  [1100] = {inputs={{"drc", true}, {"token", true}}, outputs={{"token", true}}},
}
local P = {}

do -- parts/base.lua
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
end

do -- parts/protobuf.lua
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
end

do -- parts/json.lua
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
end

do -- parts/payload.lua
-- What a VMC session carries: pvnet's own management frames ("PVNE"), and messages of the public router category.

local add = P.add
local FRAME_HEAD, ROUTER_HEAD = 12, 32

local function management(ctx, tree, buf, at, count)
  if count < FRAME_HEAD or P.be16(buf.s, at + 4) ~= 1 or P.be32(buf.s, at + 8) ~= count - FRAME_HEAD then
    return ""
  end
  local start, length = at + FRAME_HEAD, count - FRAME_HEAD
  local name = "pvnet.v1.Management"
  local message = P.message(name, buf, start, length)
  if not message then
    return ""
  end
  local text = message.chosen.command
  if not text then
    name = "pvnet.v1.ManagementReply"
    message = P.message(name, buf, start, length)
    if not message then
      return ""
    end
    text = "reply " .. P.name("mgmt.status", P.value(message, "status"))
  end
  local layer = P.layer(ctx, tree, "mgmt", buf, at, count)
  layer:append_text(": " .. text)
  P.show(layer, name, "mgmt", buf, message, at + count)
  return "management " .. text
end

local function router(ctx, tree, buf, at, count)
  local s = buf.s
  if count < ROUTER_HEAD or s:byte(at + 4) ~= ROUTER_HEAD or P.be32(s, at + 4) ~= count
    or P.be32(s, at + 16) ~= count - ROUTER_HEAD then
    return ""
  end
  local target, flags, opcode, rc = P.be16(s, at + 12), s:byte(at + 16), P.be16(s, at + 20), P.be16(s, at + 22)
  local layer = P.layer(ctx, tree, "router", buf, at, count)
  add(layer, "router.target", buf, at + 12, 2, target)
  add(layer, "router.opcode", buf, at + 20, 2, opcode)
  add(layer, "router.correlation", buf, at + 8, 4, P.be32(s, at + 8))
  add(layer, "router.flags", buf, at + 15, 1, flags)
  add(layer, "router.rc", buf, at + 22, 2, rc)
  add(layer, "router.data", buf, at + ROUTER_HEAD, count - ROUTER_HEAD)
  local text = "router " .. P.name("router.opcode", opcode)
  if P.has(flags, 0x40) then
    text = text .. " " .. P.name("router.rc", rc)
    if rc ~= 0 then
      P.note(layer, "router answers " .. P.name("router.rc", rc))
    end
  end
  layer:append_text(": " .. text)
  return text
end

-- Show what the bytes are, if that is known; return it as text.
function P.payload(ctx, tree, buf, at, count)
  local head = buf.s:sub(at + 1, at + math.min(count, 4))
  if head == "PVNE" then
    return management(ctx, tree, buf, at, count)
  elseif head:sub(1, 3) == "\222\202\255" then
    return router(ctx, tree, buf, at, count)
  end
  return ""
end

-- The same for bytes that a call carries; " [what they are, or how they begin]".
function P.carried(ctx, tree, buf, at, count)
  if count == 0 then
    return ""
  end
  local text = P.payload(ctx, tree, buf, at, count)
  return " [" .. (text ~= "" and text or P.bytes_text(buf.s, at, count, 16)) .. "]"
end
end

do -- parts/crq.lua
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
end

do -- parts/hcall.lua
-- Hypervisor calls: their registers by name, and the CRQ element in two of them.

local add = P.add
local H_SEND_CRQ = 0x108

function P.opcode_name(low, high)
  return (not high or high == 0) and OPCODES[low] or "HcallOpcode(" .. P.hex(low, high):upper():gsub("X", "x") .. ")"
end

function P.rc_name(rc)
  return RCS[rc] or string.format("HcallRc(%.0f)", rc)
end

local function word(row, entry)
  local text = (row and not row[2]) and P.decimal(entry.v, entry.h) or P.hex(entry.v, entry.h)
  return row and row[1] .. "=" .. text or text
end

-- "H_REG_CRQ unit=0x30000002 queue=0x1000 length=0x1000"; `args` is a list of {v, h}.
function P.call_text(opcode, opcode_high, args)
  local signature = (opcode_high or 0) == 0 and SIGNATURES[opcode] or nil
  local words = {P.opcode_name(opcode, opcode_high)}
  for number, entry in ipairs(args) do
    words[#words + 1] = word(signature and signature.inputs[number], entry)
  end
  return table.concat(words, " ")
end

-- "H_SUCCESS token=0x0 ..."; by name where the call is known.
function P.result_text(rc, outs, opcode)
  local signature = opcode and SIGNATURES[opcode]
  local words = {P.rc_name(rc)}
  for number, entry in ipairs(outs) do
    if not signature then
      words[#words + 1] = string.format("r%d=%s", number + 3, P.hex(entry.v, entry.h))
    elseif signature.outputs[number] and rc >= 0 then
      words[#words + 1] = word(signature.outputs[number], entry)
    end
  end
  return table.concat(words, " ")
end


-- Say at each register what the call calls it.
local function name_registers(entries, names)
  for number, entry in ipairs(entries) do
    if names[number] and entry.item then
      entry.item:append_text(" (" .. names[number][1] .. ")")
    end
  end
end

local function big_endian(low, high)
  local text = ""
  for _, half in ipairs({high or 0, low}) do
    text = text .. string.char(math.floor(half / 16777216), math.floor(half / 65536) % 256,
                               math.floor(half / 256) % 256, half % 256)
  end
  return text
end

-- The element that H_SEND_CRQ carries in its second and third argument.
function P.send_crq(ctx, tree, args, buf, at, count)
  if #args < 3 then
    P.problem(ctx, tree, "hcall", "H_SEND_CRQ without its three arguments")
    return "H_SEND_CRQ"
  end
  local element = P.buffer_of(big_endian(args[2].v, args[2].h) .. big_endian(args[3].v, args[3].h), "CRQ element")
  local text = P.element(ctx, ctx.root, element, 0, 16, function(layer)
    local unit = add(layer, "crq.unit", buf, at, count, args[1].v)
    unit:set_generated()
    add(layer, "crq.element", element, 0, 16)
  end)
  local header = element.s:byte(1)
  if header < 0x80 or header == 0xFF then
    P.problem(ctx, tree, "hcall", string.format("H_SEND_CRQ of an element with header 0x%02x", header))
  end
  return "H_SEND_CRQ unit=" .. P.hex(args[1].v, args[1].h) .. " " .. text
end

function P.body_hcall(ctx, layer, buf, message, behind)
  local opcode, high = P.value(message, "opcode"), message.opcode and message.opcode.h or 0
  local low = message.opcode and message.opcode.v or 0
  local args, text = message.args or {}, nil
  if opcode == H_SEND_CRQ then
    text = P.send_crq(ctx, layer, args, buf, behind, 0)
  else
    text = P.call_text(low, high, args)
    layer:append_text(": " .. text)
  end
  if high == 0 and SIGNATURES[low] then
    name_registers(args, SIGNATURES[low].inputs)
  end
  if high ~= 0 or not OPCODES[low] then
    P.note(layer, "a hypervisor call that is not known here")
  end
  if message.memory then
    text = text .. P.carried(ctx, ctx.root, buf, P.bytes(message, "memory"))
  end
  if P.value(message, "problem_state") ~= 0 then
    text = text .. " (problem state)"
  end
  return text
end

function P.body_hcall_reply(ctx, layer, buf, message)
  local rc = P.signed64(message, "rc")
  local text = P.result_text(rc, message.outs or {}, ctx.call and ctx.call.opcode)
  layer:append_text(": " .. text)
  if ctx.call and ctx.call.opcode then
    layer:add(P.CALL_OPCODE, UInt64.new(ctx.call.opcode, 0)):set_generated()
    name_registers(message.outs or {}, SIGNATURES[ctx.call.opcode] and SIGNATURES[ctx.call.opcode].outputs or {})
    text = P.opcode_name(ctx.call.opcode, 0) .. " = " .. text
  end
  if not RCS[rc] then
    P.note(layer, string.format("return code %.0f has no name", rc))
  elseif rc < 0 then
    P.note(layer, "refused: " .. RCS[rc])
  end
  if message.memory then
    text = text .. P.carried(ctx, ctx.root, buf, P.bytes(message, "memory"))
  end
  return text
end
end

do -- parts/memory.lua
-- The memory of partitions whose bridge keeps a copy: what all messages have written so far.  A bridge call names its
-- parameters by address, and a message carries only the bytes that have changed since the last one.

local PAGE, MAX_PAGES = 256, 65536
local ZERO = ("\0"):rep(PAGE)
local images, taken

function P.forget_memory()
  images, taken = {}, {}
end
P.forget_memory()

local function write(image, address, data)
  local at = 0
  while at < #data do
    local offset = address % PAGE
    local number, count = (address - offset) / PAGE, math.min(PAGE - offset, #data - at)
    local page = image.pages[number]
    if not page then
      image.count = image.count + 1
    end
    page = page or ZERO
    image.pages[number] = page:sub(1, offset) .. data:sub(at + 1, at + count) .. page:sub(offset + count + 1)
    address, at = address + count, at + count
  end
end

local function read(image, address, length)
  local parts = {}
  while length > 0 do
    local offset = address % PAGE
    local count = math.min(PAGE - offset, length)
    local page = image.pages[(address - offset) / PAGE] or ZERO
    parts[#parts + 1] = page:sub(offset + 1, offset + count)
    address, length = address + count, length - count
  end
  return table.concat(parts)
end

-- Bytes at (address, length) as they were when this message came; nil: not known.  A packet is dissected several
-- times, and one message may be in a capture twice: what it saw first is kept.
function P.remembered(ctx, address, length)
  local seen, key = taken[ctx.identity], string.format("%.0f:%d", address, length)
  if seen[key] == nil and ctx.is_first then
    seen[key] = read(ctx.image, address, length)
  end
  return seen[key]
end

-- Take over what a message of vbus has written; sets ctx.image where there is a copy.
function P.remember_memory(ctx, name, message, body, buf)
  local source, destination = P.text(message, "source"), P.text(message, "destination")
  local ends = source < destination and source .. " " .. destination or destination .. " " .. source
  local boot, seq = message.source_incarnation or {v = 0, h = 0}, P.value(message, "seq")
  ctx.identity = seq == 0 and ctx.pinfo.number
    or string.format("%s %s %s %.0f %.0f", source, P.hex(boot.v, boot.h), destination, P.value(message, "stream"), seq)
  ctx.is_first = taken[ctx.identity] == nil
  taken[ctx.identity] = taken[ctx.identity] or {}
  if name == "vbus_attach" and ctx.is_first then
    images[ends] = P.value(body, "shared") == 0 and {pages = {}, count = 0} or nil
  end
  local image = images[ends]
  if not image then
    return
  end
  if ctx.is_first then
    for _, item in ipairs(body.writes or {}) do
      local at, count = P.bytes(item.m, "data")
      local address = P.value(item.m, "address")
      if address < 2 ^ 53 - 65536 * 16 and image.count < MAX_PAGES then
        write(image, address, buf.s:sub(at + 1, at + count))
      end
    end
  end
  ctx.image = image
end
end

do -- parts/vbus.lua
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
end

do -- parts/vfio.lua
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
end

do -- parts/frame.lua
-- Packets between the switches of two labs, and memory that moved without a message; big-endian.

local add = P.add
local LINK_HEAD, MAX_BODY, VNET_HEAD, MEMORY_HEAD = 12, 10 + 65536, 10, 16
local MAX_FRAMES = 64
local ethernet = Dissector.get("eth_withoutfcs")

local function hello(s, at, count)
  local stop, names = at + count, {}
  if count < 6 then
    P.refuse("hello is cut short")
  end
  local mtu = P.be32(s, at)
  at = at + 6
  for index = 1, 2 do
    local size = at < stop and s:byte(at + 1) or 0
    names[index] = s:sub(at + 2, math.min(at + 1 + size, stop))
    if not names[index]:match("^[-a-z0-9_]+$") or #names[index] > 32 or names[index] == "state" then
      P.refuse("hello with a name that cannot be")
    end
    at = at + 1 + size
  end
  if at ~= stop then
    P.refuse("hello has a wrong length")
  end
  if mtu < 68 or mtu > 65521 then
    P.refuse("MTU %d", mtu)
  end
  return string.format("HELLO of %s/%s, MTU %d", names[1], names[2], mtu)
end

-- Offload work that travels in front of a frame; little-endian.
local function check_vnet(s, at)
  local flags, gso, size = s:byte(at + 1), s:byte(at + 2), P.le16(s, at + 4)
  local kind = gso % 128
  if flags > 3 or (kind ~= 0 and kind ~= 1 and kind ~= 3 and kind ~= 4) or (gso > 127 and kind ~= 1 and kind ~= 4)
    or (kind ~= 0 and size == 0) then
    P.refuse("vnet header")
  end
end

local function link_message(s, at, count)
  if count < LINK_HEAD then
    P.refuse("%d bytes", count)
  end
  local kind, length, vnet = s:byte(at + 4), P.be32(s, at + 4), P.be16(s, at + 8)
  if P.be16(s, at) ~= 0x504C or s:byte(at + 3) ~= 1 then
    P.refuse("not version 1 of a pvnet link")
  end
  if length > MAX_BODY or length ~= count - LINK_HEAD or (kind ~= 1 and kind ~= 2) then
    P.refuse("kind %d, %d bytes", kind, length)
  end
  if P.be16(s, at + 10) ~= 0 or (vnet ~= 0 and (kind == 1 or vnet ~= VNET_HEAD)) then
    P.refuse("bytes that must be 0 are not")
  end
  if kind == 1 then
    return {kind = 1, text = hello(s, at + LINK_HEAD, length)}
  end
  if length - vnet < 14 then
    P.refuse("packet of %d bytes", length - vnet)
  end
  if vnet ~= 0 then
    check_vnet(s, at + LINK_HEAD)
  end
  return {kind = 2, start = at + LINK_HEAD + vnet, length = length - vnet}
end

function P.net_frames(ctx, buf, message)
  local texts, list = {}, message.messages or {}
  for index, item in ipairs(list) do
    if index > MAX_FRAMES then
      break
    end
    local layer = P.layer(ctx, ctx.root, "net", buf, item.o, item.n)
    local found, wrong = P.guarded(link_message, buf.s, item.o, item.n)
    if not found then
      P.problem(ctx, layer, "net", "link message: " .. wrong)
      texts[#texts + 1] = string.format("link message of %d bytes", item.n)
    else
      add(layer, "net.kind", buf, item.o + 3, 1, found.kind)
      if found.kind == 1 then
        texts[#texts + 1] = found.text
        layer:append_text(": " .. found.text)
      else
        layer:append_text(string.format(": packet of %d bytes", found.length))
        texts[#texts + 1] = P.inner(ctx, ethernet, buf.tvb:range(found.start, found.length):tvb())
      end
    end
  end
  return #texts == 1 and texts[1] or string.format("%d frames: %s", #list, table.concat(texts, "; ", 1,
                                                                                         math.min(#texts, 3)))
end

-- A record of memory (link type 149).
function P.memory_record(ctx, buf)
  local s, layer = buf.s, P.layer(ctx, ctx.root, "memory", buf, 0, buf.length)
  if buf.length < MEMORY_HEAD then
    if not ctx.is_cut then
      P.problem(ctx, layer, "memory", string.format("memory record of %d bytes, 16 are the least", buf.length))
    end
    return "memory"
  end
  local kind, count = s:byte(1), buf.length - MEMORY_HEAD
  local name = P.SPEC["memory.kind"].values[kind]
  add(layer, "memory.kind", buf, 0, 1, kind)
  add(layer, "memory.address", buf, 8, 8, P.be32(s, 12), P.be32(s, 8))
  add(layer, "memory.length", buf, MEMORY_HEAD, count, count):set_generated()
  add(layer, "memory.data", buf, MEMORY_HEAD, count)
  if not name then
    P.problem(ctx, layer, "memory", string.format("memory record of kind %d", kind))
    name = string.format("kind %d", kind)
  end
  local text = ""
  if kind == 1 then
    text = P.payload(ctx, ctx.root, buf, MEMORY_HEAD, count)
  elseif kind == 2 then
    text = P.ring_piece(ctx, ctx.root, buf, MEMORY_HEAD, count) or ""
  end
  if text == "" then
    text = P.bytes_text(s, MEMORY_HEAD, count, 16)
  end
  return string.format("%s %s, %d bytes: %s", name, P.hex(P.be32(s, 12), P.be32(s, 8)), count, text)
end
end

do -- parts/envelope.lua
-- The envelope: who says what to whom, the body by its kind, and which reply belongs to which call.

local add = P.add
local ENVELOPE = "pvnet.v1.Envelope"
local calls, answers, called_by

function P.reset()
  calls, answers, called_by = {}, {}, {}
  P.forget_memory()
end
P.reset()

-- Run another dissector on bytes inside, and keep what the columns say of the message.
function P.inner(ctx, dissector, tvb)
  local pinfo = ctx.pinfo
  local src, dst, text = pinfo.src, pinfo.dst, ""
  pcall(Dissector.call, dissector, tvb, pinfo, ctx.tree)
  text = tostring(pinfo.cols.info)
  pinfo.src, pinfo.dst = src, dst
  return text ~= "" and text or string.format("%d bytes", tvb:len())
end

local function name_of(field, message)
  return P.name(field, P.value(message, field:match("[^.]+$")))
end

local function device_io(ctx, _, buf, message)
  local operation, handle = P.value(message, "operation"), P.value(message, "handle")
  local text = string.format("%s handle %.0f", P.name("device.operation", operation), handle)
  local at, count = P.bytes(message, "data")
  if operation == 1 then
    return "OPEN " .. P.text(message, "path")
  elseif operation == 2 then
    return text .. " " .. P.name("device.command", P.value(message, "command")) .. P.carried(ctx, ctx.root, buf, at, count)
  elseif operation == 3 then
    return string.format("%s, up to %.0f bytes", text, P.value(message, "count"))
  elseif operation == 4 then
    return string.format("%s, %d bytes%s", text, count, P.carried(ctx, ctx.root, buf, at, count))
  elseif operation == 7 then
    return string.format("INTERRUPT of call %.0f", P.value(message, "interrupts"))
  end
  return text
end

local function device_reply(ctx, layer, buf, message)
  local result = P.signed32(message, "result")
  local text = result < 0 and "-" .. P.errno(-result) or tostring(result)
  if result < 0 then
    P.note(layer, "refused: " .. P.errno(-result))
  end
  return text .. P.carried(ctx, ctx.root, buf, P.bytes(message, "data"))
end

local function management(ctx, layer, _, message)
  local command = message.chosen.command
  if not command then
    P.problem(ctx, layer, "mgmt", "management without a command that is known here")
    return "no command"
  end
  local inner, words = message[command].m, {command}
  for _, name in ipairs({"verb", "node", "name", "bus", "device", "mdev", "switch", "kind"}) do
    local entry = inner[name]
    if entry and entry.v and entry.v ~= "" and not inner[name][1] then
      local full = "mgmt." .. command .. "." .. name
      words[#words + 1] = type(entry.v) == "number" and P.name(full, entry.v) or entry.v
    end
  end
  if inner.opcode then
    words[#words + 1] = P.opcode_name(inner.opcode.v, inner.opcode.h)
  end
  return table.concat(words, " ")
end

local function unit(message)
  return string.format("unit=0x%x", P.value(message, "unit"))
end

-- Text of a body whose own fields are shown already; more layers go to ctx.root.
local TEXTS = {
  hcall = P.body_hcall,
  hcall_reply = P.body_hcall_reply,
  vbus_attach = P.body_vbus_attach,
  vbus_call = P.body_vbus_call,
  vbus_reply = P.body_vbus_reply,
  vbus_doorbell = P.body_vbus_doorbell,
  vbus_irq = P.body_vbus_irq,
  vbus_update = P.body_vbus_update,
  device_io = device_io,
  device_reply = device_reply,
  management = management,
  crq_progress = function(_, _, _, message)
    return string.format("%s consumed %.0f", unit(message), P.value(message, "consumed"))
  end,
  irq = function(_, _, _, message) return unit(message) .. " irq" end,
  memory_read = function(_, _, _, message)
    local address = message.address or {v = 0}
    return string.format("read %.0f bytes at %s", P.value(message, "length"), P.hex(address.v, address.h))
  end,
  memory_write = function(ctx, _, buf, message)
    local address, at, count = message.address or {v = 0}, P.bytes(message, "data")
    return string.format("write %d bytes at %s%s", count, P.hex(address.v, address.h),
                         P.carried(ctx, ctx.root, buf, at, count))
  end,
  memory_reply = function(ctx, _, buf, message)
    local wrong, at, count = P.signed32(message, "error"), P.bytes(message, "data")
    return (wrong ~= 0 and P.errno(wrong) or count .. " bytes") .. P.carried(ctx, ctx.root, buf, at, count)
  end,
  management_reply = function(_, layer, _, message)
    local status = name_of("mgmt.status", message)
    if P.value(message, "status") ~= 0 then
      P.note(layer, "refused: " .. status)
    end
    return status .. " " .. P.text(message, "text")
  end,
  mdev_open = function(_, _, _, message) return "open " .. P.text(message, "name") end,
  mdev_reply = function(_, _, _, message)
    local result = P.value(message, "result")
    return string.format("%s session %.0f %s", result ~= 0 and P.errno(result) or "0", P.value(message, "session"),
                         P.text(message, "text"))
  end,
  mdev_message = function(ctx, _, buf, message)
    local at, count = P.bytes(message, "message")
    local text
    text, ctx.vfio = P.vfio(ctx, ctx.root, buf, at, count)
    ctx.session = P.value(message, "session")
    return string.format("session %.0f %s", ctx.session, text)
  end,
  mdev_irq = function(_, _, _, message)
    return string.format("session %.0f irq target %.0f", P.value(message, "session"), P.value(message, "target"))
  end,
  mdev_close = function(_, _, _, message)
    return string.format("session %.0f close %s", P.value(message, "session"), P.text(message, "reason"))
  end,
  mdev_transfer = function(_, _, _, message)
    return string.format("transfer %.0f %s %s", P.value(message, "transfer"), name_of("mdev.step", message),
                         P.text(message, "name"))
  end,
  lifecycle = function(_, _, _, message)
    return name_of("lifecycle.phase", message) .. " " .. P.text(message, "role") .. " " .. P.text(message, "text")
  end,
  refusal = function(_, layer, _, message)
    P.note(layer, "refused")
    return "refused: " .. P.text(message, "text")
  end,
}

local function crq_entry(ctx, buf, message, stop)
  local at, count = P.bytes(message, "element")
  local text = P.element(ctx, ctx.root, buf, at, count, function(layer)
    P.show(layer, "pvnet.v1.CrqEntry", "crq", buf, message, stop)
  end)
  return string.format("%s slot %.0f %s%s", unit(message), P.value(message, "slot"), text,
                       P.value(message, "irq") ~= 0 and " irq" or "")
end

local TYPE_OF = {}
for _, field in ipairs(MESSAGES[ENVELOPE]) do
  if field.oneof == "body" then
    TYPE_OF[field[2]] = field.type
  end
end

local function body_text(ctx, buf, name, entry)
  if name == "crq_entry" then
    return crq_entry(ctx, buf, entry.m, entry.stop)
  elseif name == "net_frames" then
    return P.net_frames(ctx, buf, entry.m)
  end
  local layer_name = BODIES[name].layer
  local layer = P.layer(ctx, ctx.root, layer_name, buf, entry.o, entry.n)
  P.show(layer, TYPE_OF[name], layer_name, buf, entry.m, entry.stop)
  local text = TEXTS[name] and TEXTS[name](ctx, layer, buf, entry.m, entry.stop) or name:gsub("_", " ")
  return text
end

-- What a call and its reply have in common.
local function pair_key(ctx, message, name)
  local source, destination = P.text(message, "source"), P.text(message, "destination")
  local is_reply = BODIES[name] and BODIES[name].reply
  if name == "mdev_message" then
    local head = ctx.head
    if not head or not (head.is_reply or head.wants_reply) then
      return nil
    end
    if head.is_reply then
      source, destination = destination, source
    end
    return string.format("vfio %s>%s %.0f#%d", source, destination, head.session, head.id), head.is_reply
  end
  local call = message.correlation
  if not call or (call.v == 0 and call.h == 0) then
    return nil
  end
  local boot = message[is_reply and "destination_incarnation" or "source_incarnation"] or {v = 0, h = 0}
  if is_reply then
    source, destination = destination, source
  end
  return string.format("%s.%s>%s#%s", source, P.hex(boot.v, boot.h), destination, P.hex(call.v, call.h)), is_reply
end

-- Ids of a vfio-user message, before it is shown.
local function vfio_head(buf, entry)
  local at, count = P.bytes(entry.m, "message")
  if count < 16 then
    return nil
  end
  local flags = P.le32(buf.s, at + 8)
  return {
    id = P.le16(buf.s, at), is_reply = flags % 16 == 1, wants_reply = flags % 16 == 0 and not P.has(flags, 16),
    session = P.value(entry.m, "session"),
  }
end

local function remember(ctx, buf, message, name, entry)
  local number = ctx.pinfo.number
  if name == "mdev_message" then
    ctx.head = vfio_head(buf, entry)
  end
  local key, is_reply = pair_key(ctx, message, name)
  if not key then
    return
  end
  if is_reply then
    local call = called_by[number .. key] or calls[key]
    if call and call.number ~= number then
      ctx.call = call
      if not ctx.pinfo.visited then
        called_by[number .. key], answers[call.number .. key] = call, answers[call.number .. key] or number
      end
    end
  else
    ctx.answer = answers[number .. key]
    if not ctx.pinfo.visited then
      local opcode = name == "hcall" and P.value(entry.m, "opcode") or nil
      calls[key] = {number = number, time = ctx.pinfo.abs_ts, opcode = opcode}
    end
  end
end

local function show_pair(ctx)
  if ctx.answer then
    ctx.root:add(P.REPLY_IN, ctx.answer):set_generated()
  elseif ctx.call then
    ctx.root:add(P.CALL_IN, ctx.call.number):set_generated()
    local took = ctx.pinfo.abs_ts - ctx.call.time
    if took >= 0 then
      local seconds = math.floor(took)
      ctx.root:add(P.LATENCY, NSTime.new(seconds, math.floor((took - seconds) * 1e9))):set_generated()
    end
  end
end

local function ends(ctx, source, destination)
  for _, row in ipairs({{P.SOURCE, source}, {P.DESTINATION, destination}, {P.NODE, source}, {P.NODE, destination}}) do
    if row[2] ~= "" then
      ctx.root:add(row[1], row[2]):set_hidden(true)
    end
  end
end
P.ends = ends

-- Show an envelope below ctx.root; return its text, its ends and its kind.
function P.envelope(ctx, buf)
  local message, wrong = P.message(ENVELOPE, buf, 0, buf.length)
  if not message then
    if ctx.is_cut then
      ctx.root:append_text(" (cut by the recording)")
    else
      P.problem(ctx, ctx.root, "envelope", "not a pvnet.v1.Envelope: " .. wrong)
    end
    return "envelope of " .. buf.length .. " bytes", "", "", "unknown"
  end
  local name, source, destination = message.chosen.body, P.text(message, "source"), P.text(message, "destination")
  ends(ctx, source, destination)
  local layer = P.layer(ctx, ctx.root, "envelope", buf, 0, buf.length)
  layer:append_text(string.format(": %s > %s", source, destination))
  P.show(layer, ENVELOPE, "envelope", buf, message, buf.length)
  if P.value(message, "schema") ~= SCHEMA_VERSION then
    P.problem(ctx, layer, "envelope", string.format("schema version %.0f: version %d is known here",
                                                    P.value(message, "schema"), SCHEMA_VERSION))
  end
  if not name then
    P.problem(ctx, layer, "envelope", "no body that is known here")
    return "unknown body", source, destination, "unknown"
  end
  local entry = message[name]
  add(layer, "envelope.body", buf, entry.o, entry.n, name)
  remember(ctx, buf, message, name, entry)
  show_pair(ctx)
  if BODIES[name].layer == "vbus" then
    P.remember_memory(ctx, name, message, entry.m, buf)
  end
  local text = body_text(ctx, buf, name, entry)
  if name == "link_ack" then
    text = string.format("ack %.0f of stream %.0f", P.value(message, "ack"), P.value(message, "ack_stream"))
  elseif name == "link_reset" then
    text = string.format("reset, stream %.0f", P.value(message, "stream"))
  end
  return text, source, destination, name
end
end

do -- parts/register.lua
-- Where packets come from: link types 147 to 149, MQTT, and any dissector that is told the name "pvnet".

local USER0 = wtap and wtap.USER0 or 45
local json = Dissector.get("json")
local interface_name = Field.new("frame.interface_name")
local mqtt_topics, mqtt_messages = Field.new("mqtt.topic"), Field.new("mqtt.msg")

local function context(proto, tvb, pinfo, tree)
  local root = tree:add(proto, tvb:range())
  return {pinfo = pinfo, tree = tree, root = root, problems = 0, is_cut = tvb:len() < tvb:reported_len()}
end

local function node()
  local found = interface_name()
  return found and tostring(found.value):match("^[^/]*") or ""
end

local function columns(ctx, text, source, destination, kind)
  local pinfo = ctx.pinfo
  ctx.root:append_text(": " .. kind)
  ctx.root:add(P.KIND, kind):set_hidden(true)
  pinfo.cols.protocol = "pvnet/" .. (ctx.protocol or "envelope")
  pinfo.cols.info = text
  if source ~= "" then
    pinfo.cols.src = source
  end
  if destination ~= "" then
    pinfo.cols.dst = destination
  end
end

-- Whether the message came in something that has addresses of its own.
local function is_inside(pinfo)
  local address = tostring(pinfo.net_src)
  return address ~= "" and address ~= "NONE"
end

function P.proto.dissector(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return 0
  end
  local inside = is_inside(pinfo)
  local info = inside and tostring(pinfo.cols.info) or ""
  local ctx = context(P.proto, tvb, pinfo, tree)
  local text, source, destination, kind = P.envelope(ctx, P.buffer(tvb))
  columns(ctx, text, source, destination, kind)
  if inside then
    -- Source and destination are the addresses of the carrier there.
    pinfo.cols.protocol = "MQTT/pvnet"
    pinfo.cols.info = (P.shown == pinfo.number and info .. " | " or "")
      .. string.format("%s > %s %s", source, destination, text)
    P.shown = pinfo.number
  end
  return tvb:len()
end

function P.json_proto.dissector(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return 0
  end
  local ctx = context(P.json_proto, tvb, pinfo, tree)
  local text, kind = P.json_record(ctx, P.buffer(tvb))
  if json and not ctx.is_cut and (kind ~= "unknown" or ctx.problems == 0) then
    P.inner(ctx, json, tvb)
  end
  P.ends(ctx, node(), "")
  columns(ctx, text, node(), "", kind)
  return tvb:len()
end

function P.memory_proto.dissector(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return 0
  end
  local ctx = context(P.memory_proto, tvb, pinfo, tree)
  local text = P.memory_record(ctx, P.buffer(tvb))
  P.ends(ctx, node(), "")
  columns(ctx, text, node(), "", "memory")
  return tvb:len()
end

-- MQTT needs no setting: after Wireshark has dissected it, payloads below pvnet/v1/LAB that are envelopes of that lab
-- are shown.  With the setting of README.md they come to P.proto directly.
local function mqtt_payloads(pinfo, tree)
  local payloads = {mqtt_messages()}
  if #payloads == 0 then
    return
  end
  local labs = {}
  for _, topic in ipairs({mqtt_topics()}) do
    local lab = tostring(topic.value):match("^pvnet/v1/([^/]+)/")
    if lab then
      labs[lab] = true
    end
  end
  if not next(labs) then
    return
  end
  for _, payload in ipairs(payloads) do
    local range = payload.range
    if range and range:len() > 0 then
      local tvb = range:tvb()
      local buf = P.buffer(tvb)
      local message = P.message("pvnet.v1.Envelope", buf, 0, buf.length)
      if message and labs[P.text(message, "lab")] then
        P.proto.dissector(tvb, pinfo, tree)
      end
    end
  end
end

function P.mqtt_proto.dissector(_, pinfo, tree)
  -- Set when a payload of this packet came to P.proto already, by a setting.
  if P.shown == nil then
    mqtt_payloads(pinfo, tree)
  end
  P.shown = nil
end

function P.proto.init()
  P.reset()
  P.shown = nil
end

local encapsulations = DissectorTable.get("wtap_encap")
encapsulations:add(USER0, P.proto)
encapsulations:add(USER0 + 1, P.json_proto)
encapsulations:add(USER0 + 2, P.memory_proto)
register_postdissector(P.mqtt_proto)
end
