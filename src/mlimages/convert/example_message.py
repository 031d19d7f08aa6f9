"""The message tf.train.Example without TensorFlow, whose import takes seconds and prints notices.

Source of the schema: tensorflow/core/example/example.proto and feature.proto.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
LISTS = {"BytesList": FIELD.TYPE_BYTES, "FloatList": FIELD.TYPE_FLOAT, "Int64List": FIELD.TYPE_INT64}
KINDS = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}


def _example_class() -> Any:
    """The class of the message. Its pool is private: TensorFlow registers the same names in the default one."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    for name, kind in LISTS.items():
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=FIELD.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, message) in enumerate(KINDS.items(), start=1):
        feature.field.add(name=name, number=number, type=FIELD.TYPE_MESSAGE, type_name=f".tensorflow.{message}",
                          label=FIELD.LABEL_OPTIONAL, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=FIELD.TYPE_MESSAGE, type_name=".tensorflow.Feature",
                    label=FIELD.LABEL_OPTIONAL)
    features.field.add(name="feature", number=1, type=FIELD.TYPE_MESSAGE, label=FIELD.LABEL_REPEATED,
                       type_name=".tensorflow.Features.FeatureEntry")
    file.message_type.add(name="Example").field.add(name="features", number=1, type=FIELD.TYPE_MESSAGE,
                                                    type_name=".tensorflow.Features", label=FIELD.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


ExampleMessage = _example_class()
