from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Lifecycle(_message.Message):
    __slots__ = ("phase", "role", "connection", "text", "pid", "host", "version", "direct")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[Lifecycle.Phase]
        BIRTH: _ClassVar[Lifecycle.Phase]
        READY: _ClassVar[Lifecycle.Phase]
        LOST: _ClassVar[Lifecycle.Phase]
        DEATH: _ClassVar[Lifecycle.Phase]
    PHASE_UNSPECIFIED: Lifecycle.Phase
    BIRTH: Lifecycle.Phase
    READY: Lifecycle.Phase
    LOST: Lifecycle.Phase
    DEATH: Lifecycle.Phase
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    phase: Lifecycle.Phase
    role: str
    connection: int
    text: str
    pid: int
    host: str
    version: str
    direct: DirectAddress
    def __init__(self, phase: _Optional[_Union[Lifecycle.Phase, str]] = ..., role: _Optional[str] = ..., connection: _Optional[int] = ..., text: _Optional[str] = ..., pid: _Optional[int] = ..., host: _Optional[str] = ..., version: _Optional[str] = ..., direct: _Optional[_Union[DirectAddress, _Mapping]] = ...) -> None: ...

class DirectAddress(_message.Message):
    __slots__ = ("host", "path")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    host: str
    path: str
    def __init__(self, host: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...
