# get_or_create_application_instance: the one call of every message, a method of StatelessServer.

cdef InstanceTable _table_of(server):
    """Return the table of a server that has not used it yet; raise TypeError for what is not a server."""
    error = None
    try:
        table = server._cyasgi_table
    except AttributeError as missing:
        table, error = None, missing
    if type(table) is not InstanceTable:
        raise TypeError(
            f"'get_or_create_application_instance' requires a 'StatelessServer' object but received {server!r}"
        ) from error
    return <InstanceTable>table


@cython.binding(True)
def get_or_create_application_instance(self, scope_id, scope):
    """Return the live instance of this id, or a new one for `scope`, as the most recently used one of the table.

    The server runs the application, and the instance is its input queue. But if the result of the call is awaited
    before anything was put into it, the caller runs it: `await instance["application"](scope, receive, send)`.

    Raises:
        TypeError: `scope_id` is not hashable, or the application is not callable. Nothing was evicted then.
        TableFull: the eviction policy is "refuse", and there is no room for a new instance.
        RuntimeError: a new instance cannot be made in this thread, or for a task of a run that is over.
    """
    return _get_or_create(self, scope_id, scope)


cdef inline object _get_or_create(server, scope_id, scope):
    table = own_attribute(server, "_cyasgi_table")
    if type(table) is not InstanceTable:
        table = _table_of(server)
    instance = (<InstanceTable>table).lookup(scope_id)
    if instance is None:
        instance = (<InstanceTable>table).create(server, scope_id, scope)
        if instance is None:
            return server._cyasgi.obtain(server, scope_id, scope)
    return instance
