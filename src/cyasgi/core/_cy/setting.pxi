# Setting: a checked attribute of a server.

@cython.final
cdef class Setting:
    """A checked attribute with a default, kept in the instance's `__dict__` under its own name.

    On the class it is its default, so that a subclass may assign another one, as ``max_queue_size = 100``.

    Args:
        default: the value of an instance that has none of its own.
        check: called with the name and a new value; raises an error if that is not accepted.
        changed: called with the instance after a change.
    """

    cdef readonly object default
    cdef readonly object check
    cdef readonly object changed
    cdef readonly object name

    def __init__(self, default, check, changed=None):
        self.default = default
        self.check = check
        self.changed = changed
        self.name = ""

    @classmethod
    def __class_getitem__(cls, value_type):
        return GenericAlias(cls, value_type)

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
