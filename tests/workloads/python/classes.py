"""What is called without looking like a call: properties, decorators, metaclasses, contexts, descriptors."""

import contextlib
import dataclasses
import functools

from marker import mark, run


def decorated(function):
    mark()

    @functools.wraps(function)
    def wrapper(*args, **named):
        mark()
        return function(*args, **named)

    return wrapper


def with_arguments(*arguments):
    def decorate(function):
        return decorated(function)

    return decorate


class Descriptor:
    def __set_name__(self, owner, name):
        mark()

    def __get__(self, instance, owner):
        mark()
        return 1

    def __set__(self, instance, value):
        mark()


class Meta(type):
    def __new__(cls, name, bases, namespace, **named):
        mark()
        return super().__new__(cls, name, bases, namespace)

    def __call__(cls, *args):
        mark()
        return super().__call__(*args)

    @classmethod
    def __prepare__(cls, name, bases, **named):
        mark()
        return {}

    def __instancecheck__(cls, instance):
        mark()
        return True


class Base:
    def __init_subclass__(cls, **named):
        mark()

    def __new__(cls, *args):
        mark()
        return super().__new__(cls)

    def method(self):
        mark()


@dataclasses.dataclass
class Point:
    x: int = dataclasses.field(default_factory=lambda: mark() or 1)
    y: int = 2

    def __post_init__(self):
        mark()


@functools.singledispatch
def dispatched(value):
    mark()


@dispatched.register(int)
def _(value):
    mark()


@contextlib.contextmanager
def context():
    mark()
    try:
        yield
    finally:
        mark()


class Managed:
    def __enter__(self):
        mark()

    def __exit__(self, *exception):
        mark()
        return True


def make():
    """A class made anew each time."""

    class Made(Base, metaclass=Meta, option=1):
        mark()
        described = Descriptor()

        def __init__(self, *args):
            mark()

        @property
        def value(self):
            mark()
            return 1

        @value.setter
        def value(self, value):
            mark()

        @with_arguments(1, 2)
        @decorated
        def method(self, *args):
            super().method()
            mark()

        @classmethod
        def of(cls):
            mark()
            return cls(1)

        @staticmethod
        def free():
            mark()

        @functools.lru_cache(maxsize=None)
        def cached(self):
            mark()

        def __getattr__(self, name):
            mark()
            return lambda: mark()

        def __call__(self, inner):
            def nested():
                def innermost():
                    mark()

                return innermost

            return nested()()

    return Made


def sample():
    for _ in range(5):
        made = make()
        instance = made.of()
        instance.value = instance.value
        instance.described = instance.described
        instance.method(1)
        instance.free()
        instance.cached()
        instance.unknown()
        instance(1)
        isinstance(1, made)
        Point()
        dispatched(1), dispatched("text")
        with context(), Managed():
            mark()
            raise ValueError
        with contextlib.ExitStack() as stack:
            stack.enter_context(context())
            stack.callback(mark)


run(sample)
