from pvnet.pb.v1 import device_pb2 as _device_pb2
from pvnet.pb.v1 import lifecycle_pb2 as _lifecycle_pb2
from pvnet.pb.v1 import management_pb2 as _management_pb2
from pvnet.pb.v1 import mdev_pb2 as _mdev_pb2
from pvnet.pb.v1 import papr_pb2 as _papr_pb2
from pvnet.pb.v1 import vbus_pb2 as _vbus_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("schema", "lab", "source", "source_incarnation", "destination", "destination_incarnation", "stream", "seq", "ack_stream", "ack", "correlation", "deadline_ms", "monotonic_ns", "wall_ns", "trace", "hcall", "hcall_reply", "crq_entry", "crq_progress", "irq", "memory_read", "memory_write", "memory_reply", "vbus_attach", "vbus_call", "vbus_reply", "vbus_doorbell", "vbus_irq", "vbus_update", "net_frames", "device_io", "device_reply", "mdev_open", "mdev_reply", "mdev_message", "mdev_irq", "mdev_close", "mdev_transfer", "management", "management_reply", "lifecycle", "link_ack", "link_reset", "refusal")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    LAB_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ACK_STREAM_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    WALL_NS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    HCALL_FIELD_NUMBER: _ClassVar[int]
    HCALL_REPLY_FIELD_NUMBER: _ClassVar[int]
    CRQ_ENTRY_FIELD_NUMBER: _ClassVar[int]
    CRQ_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    IRQ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_READ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_WRITE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_REPLY_FIELD_NUMBER: _ClassVar[int]
    VBUS_ATTACH_FIELD_NUMBER: _ClassVar[int]
    VBUS_CALL_FIELD_NUMBER: _ClassVar[int]
    VBUS_REPLY_FIELD_NUMBER: _ClassVar[int]
    VBUS_DOORBELL_FIELD_NUMBER: _ClassVar[int]
    VBUS_IRQ_FIELD_NUMBER: _ClassVar[int]
    VBUS_UPDATE_FIELD_NUMBER: _ClassVar[int]
    NET_FRAMES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_IO_FIELD_NUMBER: _ClassVar[int]
    DEVICE_REPLY_FIELD_NUMBER: _ClassVar[int]
    MDEV_OPEN_FIELD_NUMBER: _ClassVar[int]
    MDEV_REPLY_FIELD_NUMBER: _ClassVar[int]
    MDEV_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MDEV_IRQ_FIELD_NUMBER: _ClassVar[int]
    MDEV_CLOSE_FIELD_NUMBER: _ClassVar[int]
    MDEV_TRANSFER_FIELD_NUMBER: _ClassVar[int]
    MANAGEMENT_FIELD_NUMBER: _ClassVar[int]
    MANAGEMENT_REPLY_FIELD_NUMBER: _ClassVar[int]
    LIFECYCLE_FIELD_NUMBER: _ClassVar[int]
    LINK_ACK_FIELD_NUMBER: _ClassVar[int]
    LINK_RESET_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    schema: int
    lab: str
    source: str
    source_incarnation: int
    destination: str
    destination_incarnation: int
    stream: int
    seq: int
    ack_stream: int
    ack: int
    correlation: int
    deadline_ms: int
    monotonic_ns: int
    wall_ns: int
    trace: int
    hcall: _papr_pb2.Hcall
    hcall_reply: _papr_pb2.HcallReply
    crq_entry: _papr_pb2.CrqEntry
    crq_progress: _papr_pb2.CrqProgress
    irq: _papr_pb2.Irq
    memory_read: _papr_pb2.MemoryRead
    memory_write: _papr_pb2.MemoryWrite
    memory_reply: _papr_pb2.MemoryReply
    vbus_attach: _vbus_pb2.VbusAttach
    vbus_call: _vbus_pb2.VbusCall
    vbus_reply: _vbus_pb2.VbusReply
    vbus_doorbell: _vbus_pb2.VbusDoorbell
    vbus_irq: _vbus_pb2.VbusIrq
    vbus_update: _vbus_pb2.VbusUpdate
    net_frames: _vbus_pb2.NetFrames
    device_io: _device_pb2.DeviceIo
    device_reply: _device_pb2.DeviceReply
    mdev_open: _mdev_pb2.MdevOpen
    mdev_reply: _mdev_pb2.MdevReply
    mdev_message: _mdev_pb2.MdevMessage
    mdev_irq: _mdev_pb2.MdevIrq
    mdev_close: _mdev_pb2.MdevClose
    mdev_transfer: _mdev_pb2.MdevTransfer
    management: _management_pb2.Management
    management_reply: _management_pb2.ManagementReply
    lifecycle: _lifecycle_pb2.Lifecycle
    link_ack: LinkAck
    link_reset: LinkReset
    refusal: Refusal
    def __init__(self, schema: _Optional[int] = ..., lab: _Optional[str] = ..., source: _Optional[str] = ..., source_incarnation: _Optional[int] = ..., destination: _Optional[str] = ..., destination_incarnation: _Optional[int] = ..., stream: _Optional[int] = ..., seq: _Optional[int] = ..., ack_stream: _Optional[int] = ..., ack: _Optional[int] = ..., correlation: _Optional[int] = ..., deadline_ms: _Optional[int] = ..., monotonic_ns: _Optional[int] = ..., wall_ns: _Optional[int] = ..., trace: _Optional[int] = ..., hcall: _Optional[_Union[_papr_pb2.Hcall, _Mapping]] = ..., hcall_reply: _Optional[_Union[_papr_pb2.HcallReply, _Mapping]] = ..., crq_entry: _Optional[_Union[_papr_pb2.CrqEntry, _Mapping]] = ..., crq_progress: _Optional[_Union[_papr_pb2.CrqProgress, _Mapping]] = ..., irq: _Optional[_Union[_papr_pb2.Irq, _Mapping]] = ..., memory_read: _Optional[_Union[_papr_pb2.MemoryRead, _Mapping]] = ..., memory_write: _Optional[_Union[_papr_pb2.MemoryWrite, _Mapping]] = ..., memory_reply: _Optional[_Union[_papr_pb2.MemoryReply, _Mapping]] = ..., vbus_attach: _Optional[_Union[_vbus_pb2.VbusAttach, _Mapping]] = ..., vbus_call: _Optional[_Union[_vbus_pb2.VbusCall, _Mapping]] = ..., vbus_reply: _Optional[_Union[_vbus_pb2.VbusReply, _Mapping]] = ..., vbus_doorbell: _Optional[_Union[_vbus_pb2.VbusDoorbell, _Mapping]] = ..., vbus_irq: _Optional[_Union[_vbus_pb2.VbusIrq, _Mapping]] = ..., vbus_update: _Optional[_Union[_vbus_pb2.VbusUpdate, _Mapping]] = ..., net_frames: _Optional[_Union[_vbus_pb2.NetFrames, _Mapping]] = ..., device_io: _Optional[_Union[_device_pb2.DeviceIo, _Mapping]] = ..., device_reply: _Optional[_Union[_device_pb2.DeviceReply, _Mapping]] = ..., mdev_open: _Optional[_Union[_mdev_pb2.MdevOpen, _Mapping]] = ..., mdev_reply: _Optional[_Union[_mdev_pb2.MdevReply, _Mapping]] = ..., mdev_message: _Optional[_Union[_mdev_pb2.MdevMessage, _Mapping]] = ..., mdev_irq: _Optional[_Union[_mdev_pb2.MdevIrq, _Mapping]] = ..., mdev_close: _Optional[_Union[_mdev_pb2.MdevClose, _Mapping]] = ..., mdev_transfer: _Optional[_Union[_mdev_pb2.MdevTransfer, _Mapping]] = ..., management: _Optional[_Union[_management_pb2.Management, _Mapping]] = ..., management_reply: _Optional[_Union[_management_pb2.ManagementReply, _Mapping]] = ..., lifecycle: _Optional[_Union[_lifecycle_pb2.Lifecycle, _Mapping]] = ..., link_ack: _Optional[_Union[LinkAck, _Mapping]] = ..., link_reset: _Optional[_Union[LinkReset, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class LinkAck(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LinkReset(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
