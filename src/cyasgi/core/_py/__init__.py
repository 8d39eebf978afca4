"""The pure-Python twin of the core: ApplicationInstance and InstanceTable.

`README.md` in the directory above has the theory of operation, and the contract with the compiled twin.
"""

from .awaitables import SENT as SENT, Pass as Pass
from .entry import ForeignEntry as ForeignEntry
from .fastpath import FastPath as FastPath
from .instance import ApplicationInstance as ApplicationInstance
from .lookup import get_or_create_application_instance as get_or_create_application_instance
from .run import Run as Run
from .sampling import SAMPLER as SAMPLER
from .setting import Setting as Setting
from .table import InstanceTable as InstanceTable
