"""The protocols for a type checker say the same as the interfaces of zope."""

from collective.taskqueue import interfaces
from collective.taskqueue.enqueue import protocols as queues
from collective.taskqueue.storages import protocols as storages
from zope.interface.interface import InterfaceClass
from zope.interface.interface import Method
import ast
import inspect
import pytest


PAIRS = {
    "ITaskQueue": queues.Queue,
    "ITaskStorage": storages.Storage,
    "ITaskAdmin": storages.Admin,
    "IRemoteStorage": storages.RemoteStorage,
}


def members(kind):
    """Return the methods of a class by name, as they stand in its source, and its attributes."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    methods, attributes = {}, set()
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            attributes.add(node.target.id)
        elif isinstance(node, ast.FunctionDef) and node.decorator_list:
            attributes.add(node.name)
        elif isinstance(node, ast.FunctionDef):
            methods[node.name] = parameters(node.args)
    return methods, attributes


def parameters(arguments):
    """Return parameters as they are written, with their defaults and without their types."""
    for each in ast.walk(arguments):
        if isinstance(each, ast.arg):
            each.annotation = None
    found = [each.strip() for each in ast.unparse(arguments).split(",")]
    return [each for each in found if each not in ("self", "")]


@pytest.mark.parametrize("name", PAIRS)
def test_a_protocol_is_its_interface(name):
    """The same methods with the same parameters and defaults, and the same attributes."""
    declared = inspect.getsource(interfaces)
    (tree,) = (each for each in ast.parse(declared).body if getattr(each, "name", "") == name)
    methods, attributes = members(PAIRS[name])
    found = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    assert methods == {name: parameters(each.args) for name, each in found.items()}
    interface = getattr(interfaces, name)
    assert attributes == {name for name in interface if not isinstance(interface[name], Method)}


def test_all_interfaces_of_methods_have_a_protocol():
    """A new one must not be forgotten."""
    declared = [each for each in vars(interfaces).values() if isinstance(each, InterfaceClass)]
    named = {
        each.__name__ for each in declared if any(isinstance(each[name], Method) for name in each)
    }
    assert named == PAIRS.keys()
