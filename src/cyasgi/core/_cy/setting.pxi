# Setting: a checked attribute of a server.

@cython.final
cdef class Setting:
    """A checked attribute with a default, kept in the instance's `__dict__` under its own name. `changed` is called
    with the instance after a change."""

    cdef readonly object default
    cdef readonly object check
    cdef readonly object changed
    cdef readonly object name

    def __init__(self, default, check, changed=None):
        self.default = default
        self.check = check
        self.changed = changed
        self.name = ""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner):
        if instance is None:
            return self.default
        return (<dict>PyObject_GenericGetDict(instance, NULL)).get(self.name, self.default)

    def __set__(self, instance, value):
        self.check(self.name, value)
        instance.__dict__[self.name] = value
        if self.changed is not None:
            self.changed(instance)

    def __delete__(self, instance):
        if self.name not in instance.__dict__:
            raise AttributeError(self.name)
        del instance.__dict__[self.name]
        if self.changed is not None:
            self.changed(instance)
