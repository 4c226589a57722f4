from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceIo(_message.Message):
    __slots__ = ("operation", "path", "handle", "command", "data", "count", "nonblock", "interrupts", "offset")
    class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPERATION_UNSPECIFIED: _ClassVar[DeviceIo.Operation]
        OPEN: _ClassVar[DeviceIo.Operation]
        IOCTL: _ClassVar[DeviceIo.Operation]
        READ: _ClassVar[DeviceIo.Operation]
        WRITE: _ClassVar[DeviceIo.Operation]
        POLL: _ClassVar[DeviceIo.Operation]
        CLOSE: _ClassVar[DeviceIo.Operation]
        INTERRUPT: _ClassVar[DeviceIo.Operation]
    OPERATION_UNSPECIFIED: DeviceIo.Operation
    OPEN: DeviceIo.Operation
    IOCTL: DeviceIo.Operation
    READ: DeviceIo.Operation
    WRITE: DeviceIo.Operation
    POLL: DeviceIo.Operation
    CLOSE: DeviceIo.Operation
    INTERRUPT: DeviceIo.Operation
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NONBLOCK_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    operation: DeviceIo.Operation
    path: str
    handle: int
    command: int
    data: bytes
    count: int
    nonblock: bool
    interrupts: int
    offset: int
    def __init__(self, operation: _Optional[_Union[DeviceIo.Operation, str]] = ..., path: _Optional[str] = ..., handle: _Optional[int] = ..., command: _Optional[int] = ..., data: _Optional[bytes] = ..., count: _Optional[int] = ..., nonblock: bool = ..., interrupts: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class DeviceReply(_message.Message):
    __slots__ = ("result", "data")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    result: int
    data: bytes
    def __init__(self, result: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
