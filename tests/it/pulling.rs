//! Cursors, pages, resets, and a device that ends equal to the server.
