from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MdevOpen(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class MdevReply(_message.Message):
    __slots__ = ("result", "session", "text")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    result: int
    session: int
    text: str
    def __init__(self, result: _Optional[int] = ..., session: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class MdevMessage(_message.Message):
    __slots__ = ("session", "message", "descriptors")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    session: int
    message: bytes
    descriptors: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[int] = ..., message: _Optional[bytes] = ..., descriptors: _Optional[_Iterable[int]] = ...) -> None: ...

class MdevIrq(_message.Message):
    __slots__ = ("session", "target")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    session: int
    target: int
    def __init__(self, session: _Optional[int] = ..., target: _Optional[int] = ...) -> None: ...

class MdevClose(_message.Message):
    __slots__ = ("session", "reason", "moved_to")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MOVED_TO_FIELD_NUMBER: _ClassVar[int]
    session: int
    reason: str
    moved_to: str
    def __init__(self, session: _Optional[int] = ..., reason: _Optional[str] = ..., moved_to: _Optional[str] = ...) -> None: ...

class MdevTransfer(_message.Message):
    __slots__ = ("step", "transfer", "name", "type", "parent", "attributes", "partition", "offset", "data")
    class Step(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STEP_UNSPECIFIED: _ClassVar[MdevTransfer.Step]
        BEGIN: _ClassVar[MdevTransfer.Step]
        DATA: _ClassVar[MdevTransfer.Step]
        COMMIT: _ClassVar[MdevTransfer.Step]
        ABORT: _ClassVar[MdevTransfer.Step]
    STEP_UNSPECIFIED: MdevTransfer.Step
    BEGIN: MdevTransfer.Step
    DATA: MdevTransfer.Step
    COMMIT: MdevTransfer.Step
    ABORT: MdevTransfer.Step
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    step: MdevTransfer.Step
    transfer: int
    name: str
    type: str
    parent: str
    attributes: _containers.ScalarMap[str, str]
    partition: str
    offset: int
    data: bytes
    def __init__(self, step: _Optional[_Union[MdevTransfer.Step, str]] = ..., transfer: _Optional[int] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., parent: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., partition: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
