"""Messages of a channel layer of Django Channels: `ChannelLayerServer`, in place of Channels' Worker."""

from .errors import LayerError as LayerError, Refused as Refused
from .server import ChannelLayerServer as ChannelLayerServer
