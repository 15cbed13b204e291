from candle_tf.api import Model as Model
from candle_tf.api import load as load
from candle_tf.api import train as train
from candle_tf.errors import UserError as UserError

__version__: str
