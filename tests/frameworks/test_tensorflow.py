"""TensorFlow and Keras over the mount: tf.data, folders of pictures, checkpoints, SavedModel."""

from pathlib import Path

import pytest

from frameworks.conftest import Script

pytestmark = pytest.mark.timeout(600)


def test_tf_data_interleaves_shards_and_reads_every_record_once_each_epoch(data: Path, script: Script) -> None:
    code = """
import tensorflow as tf
from frameworks.records import record
shards = tf.data.Dataset.list_files(argv[1] + "/records/*.tfrecord", seed=1)
records = shards.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE)
for epoch in range(2):
    seen = [one for one in records.shuffle(50).prefetch(10).as_numpy_iterator()]
    print(len(seen), sorted(seen) == [record(number) for number in range(100)])
"""
    assert script(code, data) == "100 True\n100 True\n"


def test_image_dataset_from_directory_trains_a_keras_model(data: Path, script: Script) -> None:
    code = """
import keras, numpy as np
pictures = keras.utils.image_dataset_from_directory(argv[1], image_size=(24, 24), batch_size=8, seed=3, verbose=0)
print(pictures.class_names)
seen = [(round(float(x[0, 0, 0])), round(float(x[0, 0, 1])), int(y)) for xs, ys in pictures for x, y in zip(xs, ys)]
print(sorted(seen) == sorted((10 + number, 100 * label, label) for label in (0, 1) for number in range(12)))
model = keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(2)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
print(len(model.fit(pictures, epochs=2, verbose=0).history["loss"]))
"""
    assert script(code, data / "pictures").splitlines()[-3:] == ["['cat', 'dog']", "True", "2"]


def test_checkpoints_and_saved_models_are_overwritten_kept_in_number_and_loaded(
    run_folder: Path, script: Script
) -> None:
    save = """
import keras, tensorflow as tf
value = tf.Variable(0.0)
manager = tf.train.CheckpointManager(tf.train.Checkpoint(value=value), argv[1] + "/steps", max_to_keep=2)
for step in range(3): value.assign(step); manager.save()

class Times(tf.Module):
    def __init__(self): self.factor = tf.Variable(0.0)
    @tf.function(input_signature=[tf.TensorSpec([None])])
    def __call__(self, x): return self.factor * x

times = Times()
for factor in (2.0, 3.0):
    times.factor.assign(factor)
    tf.saved_model.save(times, argv[1] + "/times")

x, y = tf.ones((16, 4)), tf.zeros((16, 1))
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
best = keras.callbacks.ModelCheckpoint(argv[1] + "/best.keras", monitor="loss", save_best_only=True)
model.fit(x, y, epochs=3, verbose=0, callbacks=[best])
model.export(argv[1] + "/exported", verbose=False)
"""
    script(save, run_folder)
    load = """
import keras, tensorflow as tf
value = tf.Variable(9.0)
tf.train.Checkpoint(value=value).restore(tf.train.latest_checkpoint(argv[1] + "/steps")).assert_consumed()
print(value.numpy(), len([name for name in os.listdir(argv[1] + "/steps") if name.endswith(".index")]))
print(tf.saved_model.load(argv[1] + "/times")(tf.constant([1.0, 2.0])).numpy().tolist())
x = tf.ones((1, 4))
best, exported = keras.models.load_model(argv[1] + "/best.keras"), tf.saved_model.load(argv[1] + "/exported")
print(best(x).shape, exported.serve(x).shape)
"""
    assert script(load, run_folder).splitlines()[-3:] == ["2.0 2", "[3.0, 6.0]", "(1, 1) (1, 1)"]
