# get_or_create_application_instance: the one call of every message, a method of StatelessServer.

@cython.binding(True)
def get_or_create_application_instance(self, scope_id, scope):
    """The live instance of this id, or a fresh one made for `scope`, as the youngest of the table.

    Called plainly, the server runs the application, and the result is its input queue. Awaited before anything was
    put into it, the caller runs it: `await instance["application"](scope, receive, send)`.

    Raises:
        TypeError: `scope_id` is not hashable, or the application is not callable. Nothing was evicted.
    """
    table = (<dict>PyObject_GenericGetDict(self, NULL)).get("_cyasgi_table")
    if table is None:
        table = self._cyasgi_table
    instance = (<InstanceTable>table).lookup(scope_id)
    if instance is None:
        instance = (<InstanceTable>table).create(self, scope_id, scope)
        if instance is None:
            return self._cyasgi.obtain(self, scope_id, scope)
    return instance
