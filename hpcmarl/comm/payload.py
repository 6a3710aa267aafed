"""Base class of dataclasses that are payloads of messages."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Self

from hpcmarl.errors import ProtocolError
from hpcmarl.packing import Buffer, pack, unpack


class Payload:
    """Base of dataclasses that are sent between ranks as a packed tree (hpcmarl.packing).

    Fields hold plain values, lists, dictionaries and arrays. Tuples arrive as lists.
    """

    def pack(self) -> bytes:
        """Encode the fields."""
        assert is_dataclass(self)
        return bytes(pack({field.name: self.__dict__[field.name] for field in fields(self)}))

    @classmethod
    def unpack(cls, buffer: Buffer) -> Self:
        """Decode the fields.

        Raises:
            ProtocolError: If the payload is not a packed tree, or its fields differ.
        """
        tree = unpack(buffer)
        try:
            return cls(**tree)
        except TypeError as error:
            raise ProtocolError(
                f"a {cls.__name__} message has wrong fields: {error}; run the same version of hpcmarl on all "
                "ranks"
            ) from None
