//! What is legal but surely wrong in a mesh.
