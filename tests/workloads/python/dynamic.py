"""Code that is made, run and dropped: its memory goes to the next one at once."""

import types

from marker import mark, run

FUNCTION = """
def {name}(depth, again):
    {padding}
    if depth:
        return again(depth - 1, again)
    mark()
"""


def made(number):
    """A function that nothing refers to but the caller."""
    padding = "\n    ".join("x%d = %d" % (line, line) for line in range(number % 7)) or "pass"
    source = FUNCTION.format(name="made_%d" % number, padding=padding)
    namespace = {"mark": mark}
    exec(compile(source, "<made %d>" % number, "exec"), namespace)
    return namespace.pop("made_%d" % number)


def evaluated(number):
    eval("mark() or %d" % number, {"mark": mark})
    eval(compile("[mark() for _ in range(2)]", "<evaluated %d>" % number, "eval"), {"mark": mark})


def replaced(number):
    code = evaluated_name.__code__.replace(co_name="replaced_%d" % number, co_firstlineno=number + 1)
    types.FunctionType(code, globals())()


def evaluated_name():
    mark()


def class_of(number):
    """A class with methods, in a module that is dropped."""
    module = types.ModuleType("made")
    module.mark = mark
    source = "\n" * number + "class Made:\n def method(self):\n  mark()\nMade().method()\nmark()\n"
    exec(compile(source, "/made/module_%d.py" % number, "exec"), module.__dict__)


def named_strangely(number):
    name = ["größe", "ποσό", "数量", "\U00020000"][number % 4]
    namespace = {"mark": mark}
    exec(compile("def %s():\n mark()\n%s()" % (name, name), "<%s %d>" % (name, number), "exec"), namespace)


def sample():
    for number in range(200):
        function = made(number)
        function(number % 4, function)
        del function
        evaluated(number)
        replaced(number)
        class_of(number)
        named_strangely(number)


run(sample)
