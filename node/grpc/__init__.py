"""gRPC as a second door to what `node start` answers over HTTP. Needs the extra `grpc`.

`banyan.proto` is the interface. What is generated from it (`banyan_pb2*`) is made anew by:

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. node/grpc/banyan.proto
"""
