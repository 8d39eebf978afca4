# get_or_create_application_instance: the one call of every message, a method of StatelessServer.

cdef InstanceTable _table_of(server):
    """Of a server that has not used it yet; TypeError if it is no server."""
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
    """The live instance of this id, or a fresh one made for `scope`, as the youngest of the table.

    Called plainly, the server runs the application, and the result is its input queue. Awaited before anything was
    put into it, the caller runs it: `await instance["application"](scope, receive, send)`.

    Raises:
        TypeError: `scope_id` is not hashable, or the application is not callable. Nothing was evicted.
    """
    table = own_attribute(self, "_cyasgi_table")
    if type(table) is not InstanceTable:
        table = _table_of(self)
    instance = (<InstanceTable>table).lookup(scope_id)
    if instance is None:
        instance = (<InstanceTable>table).create(self, scope_id, scope)
        if instance is None:
            return self._cyasgi.obtain(self, scope_id, scope)
    return instance
