from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Hcall(_message.Message):
    __slots__ = ("opcode", "args", "memory", "problem_state")
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_STATE_FIELD_NUMBER: _ClassVar[int]
    opcode: int
    args: _containers.RepeatedScalarFieldContainer[int]
    memory: bytes
    problem_state: bool
    def __init__(self, opcode: _Optional[int] = ..., args: _Optional[_Iterable[int]] = ..., memory: _Optional[bytes] = ..., problem_state: bool = ...) -> None: ...

class HcallReply(_message.Message):
    __slots__ = ("rc", "outs", "memory")
    RC_FIELD_NUMBER: _ClassVar[int]
    OUTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    rc: int
    outs: _containers.RepeatedScalarFieldContainer[int]
    memory: bytes
    def __init__(self, rc: _Optional[int] = ..., outs: _Optional[_Iterable[int]] = ..., memory: _Optional[bytes] = ...) -> None: ...

class CrqEntry(_message.Message):
    __slots__ = ("unit", "registration", "slot", "element", "irq")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    IRQ_FIELD_NUMBER: _ClassVar[int]
    unit: int
    registration: int
    slot: int
    element: bytes
    irq: bool
    def __init__(self, unit: _Optional[int] = ..., registration: _Optional[int] = ..., slot: _Optional[int] = ..., element: _Optional[bytes] = ..., irq: bool = ...) -> None: ...

class CrqProgress(_message.Message):
    __slots__ = ("unit", "registration", "consumed")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    CONSUMED_FIELD_NUMBER: _ClassVar[int]
    unit: int
    registration: int
    consumed: int
    def __init__(self, unit: _Optional[int] = ..., registration: _Optional[int] = ..., consumed: _Optional[int] = ...) -> None: ...

class Irq(_message.Message):
    __slots__ = ("unit",)
    UNIT_FIELD_NUMBER: _ClassVar[int]
    unit: int
    def __init__(self, unit: _Optional[int] = ...) -> None: ...

class MemoryRead(_message.Message):
    __slots__ = ("address", "length")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    address: int
    length: int
    def __init__(self, address: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class MemoryWrite(_message.Message):
    __slots__ = ("address", "data")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    address: int
    data: bytes
    def __init__(self, address: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class MemoryReply(_message.Message):
    __slots__ = ("error", "data")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    error: int
    data: bytes
    def __init__(self, error: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
