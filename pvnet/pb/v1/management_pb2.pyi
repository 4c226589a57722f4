from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Management(_message.Message):
    __slots__ = ("token", "list_partitions", "show_partition", "power_on", "power_off", "issue_hcall", "show_status", "shut_down", "scm_inject", "finish_flush", "vbus", "switch", "ping", "devcall", "mdev", "mdev_assign", "tap")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LIST_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SHOW_PARTITION_FIELD_NUMBER: _ClassVar[int]
    POWER_ON_FIELD_NUMBER: _ClassVar[int]
    POWER_OFF_FIELD_NUMBER: _ClassVar[int]
    ISSUE_HCALL_FIELD_NUMBER: _ClassVar[int]
    SHOW_STATUS_FIELD_NUMBER: _ClassVar[int]
    SHUT_DOWN_FIELD_NUMBER: _ClassVar[int]
    SCM_INJECT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FLUSH_FIELD_NUMBER: _ClassVar[int]
    VBUS_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    DEVCALL_FIELD_NUMBER: _ClassVar[int]
    MDEV_FIELD_NUMBER: _ClassVar[int]
    MDEV_ASSIGN_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    token: int
    list_partitions: ListPartitions
    show_partition: ShowPartition
    power_on: PowerOn
    power_off: PowerOff
    issue_hcall: IssueHcall
    show_status: ShowStatus
    shut_down: ShutDown
    scm_inject: ScmInject
    finish_flush: FinishFlush
    vbus: VbusAdmin
    switch: SwitchAdmin
    ping: NetPing
    devcall: VbusDevcall
    mdev: MdevAdmin
    mdev_assign: MdevAssign
    tap: Tap
    def __init__(self, token: _Optional[int] = ..., list_partitions: _Optional[_Union[ListPartitions, _Mapping]] = ..., show_partition: _Optional[_Union[ShowPartition, _Mapping]] = ..., power_on: _Optional[_Union[PowerOn, _Mapping]] = ..., power_off: _Optional[_Union[PowerOff, _Mapping]] = ..., issue_hcall: _Optional[_Union[IssueHcall, _Mapping]] = ..., show_status: _Optional[_Union[ShowStatus, _Mapping]] = ..., shut_down: _Optional[_Union[ShutDown, _Mapping]] = ..., scm_inject: _Optional[_Union[ScmInject, _Mapping]] = ..., finish_flush: _Optional[_Union[FinishFlush, _Mapping]] = ..., vbus: _Optional[_Union[VbusAdmin, _Mapping]] = ..., switch: _Optional[_Union[SwitchAdmin, _Mapping]] = ..., ping: _Optional[_Union[NetPing, _Mapping]] = ..., devcall: _Optional[_Union[VbusDevcall, _Mapping]] = ..., mdev: _Optional[_Union[MdevAdmin, _Mapping]] = ..., mdev_assign: _Optional[_Union[MdevAssign, _Mapping]] = ..., tap: _Optional[_Union[Tap, _Mapping]] = ...) -> None: ...

class ListPartitions(_message.Message):
    __slots__ = ("first",)
    FIRST_FIELD_NUMBER: _ClassVar[int]
    first: int
    def __init__(self, first: _Optional[int] = ...) -> None: ...

class ShowPartition(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PowerOn(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PowerOff(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class IssueHcall(_message.Message):
    __slots__ = ("opcode", "args", "retry_busy")
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    RETRY_BUSY_FIELD_NUMBER: _ClassVar[int]
    opcode: int
    args: _containers.RepeatedScalarFieldContainer[int]
    retry_busy: bool
    def __init__(self, opcode: _Optional[int] = ..., args: _Optional[_Iterable[int]] = ..., retry_busy: bool = ...) -> None: ...

class ShowStatus(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutDown(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScmInject(_message.Message):
    __slots__ = ("partition", "drc", "kind", "health_bits", "health_valid", "opcode", "rc", "error", "count")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[ScmInject.Kind]
        HEALTH: _ClassVar[ScmInject.Kind]
        HEALTH_OWN: _ClassVar[ScmInject.Kind]
        RETURN_CODE: _ClassVar[ScmInject.Kind]
        STORAGE_READ: _ClassVar[ScmInject.Kind]
        STORAGE_WRITE: _ClassVar[ScmInject.Kind]
        STORAGE_FLUSH: _ClassVar[ScmInject.Kind]
    KIND_UNSPECIFIED: ScmInject.Kind
    HEALTH: ScmInject.Kind
    HEALTH_OWN: ScmInject.Kind
    RETURN_CODE: ScmInject.Kind
    STORAGE_READ: ScmInject.Kind
    STORAGE_WRITE: ScmInject.Kind
    STORAGE_FLUSH: ScmInject.Kind
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    DRC_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    HEALTH_BITS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_VALID_FIELD_NUMBER: _ClassVar[int]
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    RC_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    partition: str
    drc: int
    kind: ScmInject.Kind
    health_bits: int
    health_valid: int
    opcode: int
    rc: int
    error: int
    count: int
    def __init__(self, partition: _Optional[str] = ..., drc: _Optional[int] = ..., kind: _Optional[_Union[ScmInject.Kind, str]] = ..., health_bits: _Optional[int] = ..., health_valid: _Optional[int] = ..., opcode: _Optional[int] = ..., rc: _Optional[int] = ..., error: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class FinishFlush(_message.Message):
    __slots__ = ("drc", "token")
    DRC_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    drc: int
    token: int
    def __init__(self, drc: _Optional[int] = ..., token: _Optional[int] = ...) -> None: ...

class VbusAdmin(_message.Message):
    __slots__ = ("verb", "bus", "device", "node", "attributes", "force")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[VbusAdmin.Verb]
        SHOW: _ClassVar[VbusAdmin.Verb]
        BUS_CREATE: _ClassVar[VbusAdmin.Verb]
        BUS_REMOVE: _ClassVar[VbusAdmin.Verb]
        DEVICE_CREATE: _ClassVar[VbusAdmin.Verb]
        DEVICE_REMOVE: _ClassVar[VbusAdmin.Verb]
        DEVICE_ATTACH: _ClassVar[VbusAdmin.Verb]
        DEVICE_DETACH: _ClassVar[VbusAdmin.Verb]
        DEVICE_SET: _ClassVar[VbusAdmin.Verb]
        JOIN: _ClassVar[VbusAdmin.Verb]
        LEAVE: _ClassVar[VbusAdmin.Verb]
        CLASSES: _ClassVar[VbusAdmin.Verb]
    VERB_UNSPECIFIED: VbusAdmin.Verb
    SHOW: VbusAdmin.Verb
    BUS_CREATE: VbusAdmin.Verb
    BUS_REMOVE: VbusAdmin.Verb
    DEVICE_CREATE: VbusAdmin.Verb
    DEVICE_REMOVE: VbusAdmin.Verb
    DEVICE_ATTACH: VbusAdmin.Verb
    DEVICE_DETACH: VbusAdmin.Verb
    DEVICE_SET: VbusAdmin.Verb
    JOIN: VbusAdmin.Verb
    LEAVE: VbusAdmin.Verb
    CLASSES: VbusAdmin.Verb
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERB_FIELD_NUMBER: _ClassVar[int]
    BUS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    verb: VbusAdmin.Verb
    bus: str
    device: str
    node: str
    attributes: _containers.ScalarMap[str, str]
    force: bool
    def __init__(self, verb: _Optional[_Union[VbusAdmin.Verb, str]] = ..., bus: _Optional[str] = ..., device: _Optional[str] = ..., node: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., force: bool = ..., **kwargs) -> None: ...

class SwitchAdmin(_message.Message):
    __slots__ = ("verb", "switch", "port")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[SwitchAdmin.Verb]
        SHOW: _ClassVar[SwitchAdmin.Verb]
        PORT_ADD: _ClassVar[SwitchAdmin.Verb]
        PORT_REMOVE: _ClassVar[SwitchAdmin.Verb]
    VERB_UNSPECIFIED: SwitchAdmin.Verb
    SHOW: SwitchAdmin.Verb
    PORT_ADD: SwitchAdmin.Verb
    PORT_REMOVE: SwitchAdmin.Verb
    VERB_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    verb: SwitchAdmin.Verb
    switch: str
    port: str
    def __init__(self, verb: _Optional[_Union[SwitchAdmin.Verb, str]] = ..., switch: _Optional[str] = ..., port: _Optional[str] = ...) -> None: ...

class VbusDevcall(_message.Message):
    __slots__ = ("device", "version", "func", "data")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FUNC_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    device: int
    version: int
    func: int
    data: bytes
    def __init__(self, device: _Optional[int] = ..., version: _Optional[int] = ..., func: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class MdevAdmin(_message.Message):
    __slots__ = ("verb", "name", "parent", "type", "attributes", "force", "path", "data", "host", "partition", "region", "offset", "length")
    class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERB_UNSPECIFIED: _ClassVar[MdevAdmin.Verb]
        SHOW: _ClassVar[MdevAdmin.Verb]
        PARENT_REGISTER: _ClassVar[MdevAdmin.Verb]
        PARENT_UNREGISTER: _ClassVar[MdevAdmin.Verb]
        CREATE: _ClassVar[MdevAdmin.Verb]
        REMOVE: _ClassVar[MdevAdmin.Verb]
        START: _ClassVar[MdevAdmin.Verb]
        SHUTDOWN: _ClassVar[MdevAdmin.Verb]
        SET: _ClassVar[MdevAdmin.Verb]
        TREE_READ: _ClassVar[MdevAdmin.Verb]
        TREE_WRITE: _ClassVar[MdevAdmin.Verb]
        ATTACH: _ClassVar[MdevAdmin.Verb]
        DETACH: _ClassVar[MdevAdmin.Verb]
        MIGRATE: _ClassVar[MdevAdmin.Verb]
        PEEK: _ClassVar[MdevAdmin.Verb]
        ASSIGN: _ClassVar[MdevAdmin.Verb]
        DRIVERS: _ClassVar[MdevAdmin.Verb]
        EVENTS: _ClassVar[MdevAdmin.Verb]
    VERB_UNSPECIFIED: MdevAdmin.Verb
    SHOW: MdevAdmin.Verb
    PARENT_REGISTER: MdevAdmin.Verb
    PARENT_UNREGISTER: MdevAdmin.Verb
    CREATE: MdevAdmin.Verb
    REMOVE: MdevAdmin.Verb
    START: MdevAdmin.Verb
    SHUTDOWN: MdevAdmin.Verb
    SET: MdevAdmin.Verb
    TREE_READ: MdevAdmin.Verb
    TREE_WRITE: MdevAdmin.Verb
    ATTACH: MdevAdmin.Verb
    DETACH: MdevAdmin.Verb
    MIGRATE: MdevAdmin.Verb
    PEEK: MdevAdmin.Verb
    ASSIGN: MdevAdmin.Verb
    DRIVERS: MdevAdmin.Verb
    EVENTS: MdevAdmin.Verb
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERB_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    verb: MdevAdmin.Verb
    name: str
    parent: str
    type: str
    attributes: _containers.ScalarMap[str, str]
    force: bool
    path: str
    data: bytes
    host: str
    partition: str
    region: int
    offset: int
    length: int
    def __init__(self, verb: _Optional[_Union[MdevAdmin.Verb, str]] = ..., name: _Optional[str] = ..., parent: _Optional[str] = ..., type: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., force: bool = ..., path: _Optional[str] = ..., data: _Optional[bytes] = ..., host: _Optional[str] = ..., partition: _Optional[str] = ..., region: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Tap(_message.Message):
    __slots__ = ("path", "snaplen")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SNAPLEN_FIELD_NUMBER: _ClassVar[int]
    path: str
    snaplen: int
    def __init__(self, path: _Optional[str] = ..., snaplen: _Optional[int] = ...) -> None: ...

class MdevAssign(_message.Message):
    __slots__ = ("name", "host", "release")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    name: str
    host: str
    release: bool
    def __init__(self, name: _Optional[str] = ..., host: _Optional[str] = ..., release: bool = ...) -> None: ...

class NetPing(_message.Message):
    __slots__ = ("address", "count", "payload_bytes", "interval_ms", "timeout_ms")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    address: str
    count: int
    payload_bytes: int
    interval_ms: int
    timeout_ms: int
    def __init__(self, address: _Optional[str] = ..., count: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., interval_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class ManagementReply(_message.Message):
    __slots__ = ("token", "status", "text", "partitions", "next", "rc", "outs", "status_json")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OK: _ClassVar[ManagementReply.Status]
        NOT_FOUND: _ClassVar[ManagementReply.Status]
        CONFLICT: _ClassVar[ManagementReply.Status]
        FAILED: _ClassVar[ManagementReply.Status]
        NOT_SUPPORTED: _ClassVar[ManagementReply.Status]
        MALFORMED: _ClassVar[ManagementReply.Status]
    OK: ManagementReply.Status
    NOT_FOUND: ManagementReply.Status
    CONFLICT: ManagementReply.Status
    FAILED: ManagementReply.Status
    NOT_SUPPORTED: ManagementReply.Status
    MALFORMED: ManagementReply.Status
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    RC_FIELD_NUMBER: _ClassVar[int]
    OUTS_FIELD_NUMBER: _ClassVar[int]
    STATUS_JSON_FIELD_NUMBER: _ClassVar[int]
    token: int
    status: ManagementReply.Status
    text: str
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    next: int
    rc: int
    outs: _containers.RepeatedScalarFieldContainer[int]
    status_json: str
    def __init__(self, token: _Optional[int] = ..., status: _Optional[_Union[ManagementReply.Status, str]] = ..., text: _Optional[str] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ..., next: _Optional[int] = ..., rc: _Optional[int] = ..., outs: _Optional[_Iterable[int]] = ..., status_json: _Optional[str] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("name", "lpar_id", "state", "management", "memory_bytes", "pid", "restarts")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OFF: _ClassVar[Partition.State]
        STARTING: _ClassVar[Partition.State]
        RUNNING: _ClassVar[Partition.State]
        STOPPING: _ClassVar[Partition.State]
        FAILED: _ClassVar[Partition.State]
    OFF: Partition.State
    STARTING: Partition.State
    RUNNING: Partition.State
    STOPPING: Partition.State
    FAILED: Partition.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    LPAR_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MANAGEMENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    lpar_id: int
    state: Partition.State
    management: bool
    memory_bytes: int
    pid: int
    restarts: int
    def __init__(self, name: _Optional[str] = ..., lpar_id: _Optional[int] = ..., state: _Optional[_Union[Partition.State, str]] = ..., management: bool = ..., memory_bytes: _Optional[int] = ..., pid: _Optional[int] = ..., restarts: _Optional[int] = ...) -> None: ...
