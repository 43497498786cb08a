package inferd;

import io.netty.buffer.ByteBuf;
import io.netty.channel.ChannelConfig;
import io.netty.channel.ChannelFuture;
import io.netty.channel.ChannelOption;
import io.netty.channel.DefaultChannelConfig;
import io.netty.channel.FileRegion;
import io.netty.channel.nio.AbstractNioByteChannel;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.nio.channels.SelectionKey;
import java.nio.channels.SocketChannel;

/** A socket in a file, by Java's own channels: Netty has them by a native library alone, which not every system has. */
final class UnixChannel extends AbstractNioByteChannel {
  private final ChannelConfig config =
      new DefaultChannelConfig(this) {
        @Override
        public <T> boolean setOption(ChannelOption<T> option, T value) {
          return option == ChannelOption.SO_KEEPALIVE || super.setOption(option, value); // gRPC sets it on every channel
        }
      };

  UnixChannel() {
    super(null, open());
  }

  private static SocketChannel open() {
    try {
      return SocketChannel.open(StandardProtocolFamily.UNIX);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  @Override
  protected SocketChannel javaChannel() {
    return (SocketChannel) super.javaChannel();
  }

  @Override
  public ChannelConfig config() {
    return config;
  }

  @Override
  public boolean isActive() {
    return javaChannel().isOpen() && javaChannel().isConnected();
  }

  @Override
  protected SocketAddress localAddress0() {
    return address(javaChannel()::getLocalAddress);
  }

  @Override
  protected SocketAddress remoteAddress0() {
    return address(javaChannel()::getRemoteAddress);
  }

  private interface Asked {
    SocketAddress get() throws IOException;
  }

  private static SocketAddress address(Asked asked) {
    try {
      return asked.get();
    } catch (IOException error) {
      return null;
    }
  }

  @Override
  protected boolean doConnect(SocketAddress remote, SocketAddress local) throws Exception {
    boolean connected = javaChannel().connect(remote);
    if (!connected) {
      selectionKey().interestOps(SelectionKey.OP_CONNECT);
    }
    return connected;
  }

  @Override
  protected void doFinishConnect() throws Exception {
    javaChannel().finishConnect();
  }

  @Override
  protected void doBind(SocketAddress local) {
    throw new UnsupportedOperationException("a client binds no socket");
  }

  @Override
  protected void doDisconnect() throws Exception {
    doClose();
  }

  @Override
  protected void doClose() throws Exception {
    super.doClose();
    javaChannel().close();
  }

  @Override
  protected int doReadBytes(ByteBuf into) throws Exception {
    unsafe().recvBufAllocHandle().attemptedBytesRead(into.writableBytes());
    return into.writeBytes(javaChannel(), into.writableBytes());
  }

  @Override
  protected int doWriteBytes(ByteBuf from) throws Exception {
    return from.readBytes(javaChannel(), from.readableBytes());
  }

  @Override
  protected long doWriteFileRegion(FileRegion region) {
    throw new UnsupportedOperationException("nothing is sent from files");
  }

  @Override
  protected ChannelFuture shutdownInput() {
    return close();
  }
}
