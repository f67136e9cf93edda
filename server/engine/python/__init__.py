"""The python engine: always available, and the reference for every other one."""

from server.engine.python.engine import PythonEngine

__all__ = ["PythonEngine"]
