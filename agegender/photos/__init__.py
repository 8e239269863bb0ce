"""From any photo to an answer: faces found, cut out as UTKFace is, estimated."""
