"""Keep the import path of version 0.1 for scripts: use :mod:`basinet.data.store`."""

from basinet.data.store.writer import StoreWriter

__all__ = ["StoreWriter"]
