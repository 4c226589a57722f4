from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VbusWrite(_message.Message):
    __slots__ = ("address", "data")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    address: int
    data: bytes
    def __init__(self, address: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class VbusAttach(_message.Message):
    __slots__ = ("base", "bytes", "shared")
    BASE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    base: int
    bytes: int
    shared: int
    def __init__(self, base: _Optional[int] = ..., bytes: _Optional[int] = ..., shared: _Optional[int] = ...) -> None: ...

class VbusCall(_message.Message):
    __slots__ = ("call", "writes")
    CALL_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    call: bytes
    writes: _containers.RepeatedCompositeFieldContainer[VbusWrite]
    def __init__(self, call: _Optional[bytes] = ..., writes: _Optional[_Iterable[_Union[VbusWrite, _Mapping]]] = ...) -> None: ...

class VbusReply(_message.Message):
    __slots__ = ("result", "writes")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    result: int
    writes: _containers.RepeatedCompositeFieldContainer[VbusWrite]
    def __init__(self, result: _Optional[int] = ..., writes: _Optional[_Iterable[_Union[VbusWrite, _Mapping]]] = ...) -> None: ...

class VbusDoorbell(_message.Message):
    __slots__ = ("offset", "value", "writes")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    offset: int
    value: int
    writes: _containers.RepeatedCompositeFieldContainer[VbusWrite]
    def __init__(self, offset: _Optional[int] = ..., value: _Optional[int] = ..., writes: _Optional[_Iterable[_Union[VbusWrite, _Mapping]]] = ...) -> None: ...

class VbusIrq(_message.Message):
    __slots__ = ("queue", "writes")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    queue: int
    writes: _containers.RepeatedCompositeFieldContainer[VbusWrite]
    def __init__(self, queue: _Optional[int] = ..., writes: _Optional[_Iterable[_Union[VbusWrite, _Mapping]]] = ...) -> None: ...

class VbusUpdate(_message.Message):
    __slots__ = ("writes", "more")
    WRITES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    writes: _containers.RepeatedCompositeFieldContainer[VbusWrite]
    more: bool
    def __init__(self, writes: _Optional[_Iterable[_Union[VbusWrite, _Mapping]]] = ..., more: bool = ...) -> None: ...

class NetFrames(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, messages: _Optional[_Iterable[bytes]] = ...) -> None: ...
