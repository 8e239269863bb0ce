"""Find the faces in any photo, crop them as in UTKFace, estimate age and gender."""
